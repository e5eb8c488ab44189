"""Key configurations of Oblivious HTTP (RFC 9458, section 3): a gateway's public key and what it takes.

`application/ohttp-keys` is a list of them. Who vouches for them is in `offload.channel.regional`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from offload.channel.errors import MessageError, SuiteError
from offload.channel.hpke import HKDF_SHA256, AeadId, Suite
from offload.channel.kem import KEMS, KemId, PrivateKey, is_available, kem_of

__all__ = [
    "KEYS_TYPE",
    "GatewayKey",
    "KeyConfig",
    "choose",
    "decode_keys",
    "encode_keys",
]

KEYS_TYPE = "application/ohttp-keys"

AEADS = (AeadId.CHACHA20_POLY1305, AeadId.AES_256_GCM, AeadId.AES_128_GCM)
"""What a new key offers, the preferred one first: ChaCha20 is fast without AES instructions (Pi 0 to 4)."""

_MAX_KEYS_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class KeyConfig:
    """A gateway's public key, by its number, and the AEADs that it takes (all with HKDF-SHA256).

    Algorithms that we do not know are left out when a configuration is read.
    """

    key_id: int
    kem: KemId
    public: bytes
    aeads: tuple[AeadId, ...] = AEADS

    def encode(self) -> bytes:
        """The bytes of RFC 9458, section 3.1."""
        pairs = b"".join(HKDF_SHA256.to_bytes(2, "big") + aead.to_bytes(2, "big") for aead in self.aeads)
        head = self.key_id.to_bytes(1, "big") + self.kem.to_bytes(2, "big")
        return head + self.public + len(pairs).to_bytes(2, "big") + pairs

    @classmethod
    def decode(cls, data: bytes) -> KeyConfig:
        """Read the bytes of one configuration.

        Raises:
            MessageError: they are none, or the public key is no key.
            SuiteError: the KEM is none of ours, or every pair of KDF and AEAD is unknown.
        """
        if len(data) < 3:
            raise MessageError(f"a key configuration has more than {len(data)} bytes")
        kem = kem_of(int.from_bytes(data[1:3], "big"))
        public, rest = data[3 : 3 + kem.public_bytes], data[3 + kem.public_bytes :]
        size = int.from_bytes(rest[:2], "big")
        pairs = rest[2:]
        if len(rest) < 2 or size != len(pairs) or size % 4 or not size:
            raise MessageError("a key configuration whose list of algorithms has another length than it says")
        kem.check_public(public)
        numbers = [int.from_bytes(pairs[at : at + 2], "big") for at in range(0, size, 2)]
        offered = zip(numbers[::2], numbers[1::2], strict=True)
        found = [AeadId.known(aead) for kdf, aead in offered if kdf == HKDF_SHA256]
        aeads = tuple(aead for aead in found if aead is not None)
        if not aeads:
            raise SuiteError(
                "a key configuration that offers no algorithms known here (HKDF-SHA256 with AES-128-GCM, "
                "AES-256-GCM or ChaCha20-Poly1305)"
            )
        return cls(data[0], kem.id, public, aeads)

    def suite(self, *, prefer_aes: bool = False) -> Suite:
        """The suite to seal with: of the AEADs offered the one that is best here.

        Args:
            prefer_aes: the processor has instructions for AES.
        """
        order = sorted(AEADS, key=lambda aead: (aead is AeadId.CHACHA20_POLY1305) == prefer_aes)
        return Suite(self.kem, next(aead for aead in order if aead in self.aeads))

    def takes(self, suite: Suite) -> bool:
        """Whether the key offers that suite."""
        return suite.kem == self.kem and suite.aead in self.aeads


@dataclass(frozen=True, slots=True)
class GatewayKey:
    """A gateway's private key and the configuration that devices get."""

    config: KeyConfig
    private: PrivateKey

    @classmethod
    def generate(cls, key_id: int, kem: KemId = KemId.XWING) -> GatewayKey:
        """A fresh key with that number (0 to 255).

        Raises:
            ValueError: the number is out of range.
            SuiteError: the installed library does not have that KEM.
        """
        if not 0 <= key_id <= 255:
            raise ValueError(f"a key's number is from 0 to 255, not {key_id}")
        private = KEMS[kem].generate()
        return cls(KeyConfig(key_id, kem, private.public), private)


def encode_keys(configs: Iterable[KeyConfig]) -> bytes:
    """The list of RFC 9458, section 3.2 (`application/ohttp-keys`)."""
    encoded = (config.encode() for config in configs)
    return b"".join(len(item).to_bytes(2, "big") + item for item in encoded)


def decode_keys(data: bytes) -> tuple[KeyConfig, ...]:
    """The configurations of such a list that we can use; those of other KEMs are skipped, as the RFC wants.

    Raises:
        MessageError: the list is damaged, or two of its keys have one number.
        SuiteError: none of its keys can be used here.
    """
    if len(data) > _MAX_KEYS_BYTES:
        raise MessageError(f"a list of keys has {_MAX_KEYS_BYTES} bytes at most, not {len(data)}")
    configs: list[KeyConfig] = []
    unknown: list[str] = []
    while data:
        size, data = int.from_bytes(data[:2], "big"), data[2:]
        if len(data) < size:
            raise MessageError("a list of keys that ends within a key")
        try:
            configs.append(KeyConfig.decode(data[:size]))
        except SuiteError as error:
            unknown.append(str(error))
        data = data[size:]
    if not configs:
        raise SuiteError(f"the list has no key that can be used here: {'; '.join(unknown) or 'it is empty'}")
    if len({config.key_id for config in configs}) != len(configs):
        raise MessageError("a list in which two keys have one number")
    return tuple(configs)


def choose(configs: Sequence[KeyConfig], kems: Sequence[KemId] | None = None) -> KeyConfig:
    """The key to seal to: of the best KEM that this installation has, the one that stands first.

    Args:
        configs: keys of one gateway, newest first.
        kems: the KEMs that may be used, best first; `None` for all that are installed.

    Raises:
        SuiteError: there is none.
    """
    allowed = [kem for kem in KEMS if is_available(kem)] if kems is None else kems
    for kem in allowed:
        for config in configs:
            if config.kem == kem:
                return config
    offered = ", ".join(kem_of(config.kem).title for config in configs) or "no key"
    raise SuiteError(
        f"the gateway offers {offered}, but this installation may use "
        f"{', '.join(KEMS[kem].title for kem in allowed) or 'none'}"
    )
