"""Which signed key configuration a device takes: its roots', its gateway's, the newest, and in time.

Pure: what was remembered and what time it is come in, what is to be remembered goes out.

Knows: roots, epochs, clocks that are wrong. Does not know: where configurations come from, where pins lie.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from offload.channel.errors import (
    ExpiredError,
    MessageError,
    MismatchError,
    RolledBackError,
    SignatureError,
)
from offload.channel.regional import RegionalKeys, Signer, open_signed, time_text

__all__ = [
    "DEFAULT_TOLERANCE_S",
    "MAX_TOLERANCE_S",
    "Expected",
    "Pin",
    "Verified",
    "check_time",
    "verify",
]

DEFAULT_TOLERANCE_S = 86400
"""How far a device's clock may be ahead before a valid document looks expired to it, seconds."""

MAX_TOLERANCE_S = 7 * 86400
"""The most that a device may be told to tolerate."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the device's own configuration says of a gateway."""

    gateway: str
    region: str
    jurisdiction: str | None = None


@dataclass(frozen=True, slots=True)
class Pin:
    """What a device remembers of a gateway: the newest document it took, and the latest time it knew then."""

    epoch: int
    digest: str
    seen_at: float

    def to_json(self) -> dict[str, Any]:
        """`{epoch, digest, seen_at}`, for the device's state."""
        return {"epoch": self.epoch, "digest": self.digest, "seen_at": self.seen_at}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Pin:
        """Read what `to_json` gave.

        Raises:
            MessageError: it is something else.
        """
        epoch, digest, seen_at = (value.get(name) for name in ("epoch", "digest", "seen_at"))
        if not (isinstance(epoch, int) and isinstance(digest, str) and isinstance(seen_at, int | float)):
            raise MessageError(f"a pin needs epoch, digest and seen_at, but this one has {sorted(value)}")
        return cls(epoch, digest, float(seen_at))


@dataclass(frozen=True, slots=True)
class Verified:
    """A document that may be used, and the pin to keep. `clock_behind_s`: by how much the device's clock is
    behind a time that is known to have passed; 0 for a clock that may be right.
    """

    document: RegionalKeys
    pin: Pin
    root: str
    clock_behind_s: float


def verify(
    data: bytes,
    roots: Collection[str],
    expected: Expected,
    *,
    now_s: float,
    pin: Pin | None = None,
    tolerance_s: float = DEFAULT_TOLERANCE_S,
) -> Verified:
    """The document, when a pinned root has signed it, it is the expected gateway's, newest and in time.

    Args:
        data: the signed file.
        roots: fingerprints of the roots that the device trusts.
        expected: what the device's configuration says of this gateway.
        now_s: the device's clock, seconds since 1970.
        pin: what was kept from the last time; `None` the first time.
        tolerance_s: see `check_time`.

    Raises:
        MessageError: the file is damaged.
        SignatureError: no pinned root has signed it, or a signature is wrong.
        MismatchError: it is of another gateway, region or jurisdiction.
        RolledBackError: its epoch is lower than the pin's, or the same with another content.
        ExpiredError: its time is over.
        SuiteError: none of its keys can be used here.
    """
    payload, signers = open_signed(data)
    pinned = {root.lower() for root in roots}
    root = _signed_by(payload, signers, pinned)
    document = RegionalKeys.decode(payload)
    for what in ("gateway", "region", "jurisdiction"):
        wanted, found = getattr(expected, what), getattr(document, what)
        if wanted is not None and wanted != found:
            raise MismatchError(
                f"the keys are of {what} '{found}', but this endpoint is configured with '{wanted}'. Nothing "
                "was sent. Correct the endpoint's configuration if that is what moved, else ask the operator"
            )
    digest = hashlib.sha256(payload).hexdigest()
    if pin is not None and document.epoch < pin.epoch:
        raise RolledBackError(
            f"the keys of '{document.gateway}' have epoch {document.epoch}, but epoch {pin.epoch} was seen "
            "before. Somebody serves an old file; nothing was sent"
        )
    if pin is not None and document.epoch == pin.epoch and digest != pin.digest:
        raise RolledBackError(
            f"two different files of '{document.gateway}' have epoch {pin.epoch}. Its operator must sign "
            "with a higher epoch; nothing was sent"
        )
    known_s = check_time(document, now_s=now_s, pin=pin, tolerance_s=tolerance_s)
    return Verified(document, Pin(document.epoch, digest, known_s), root, known_s - now_s)


def check_time(
    document: RegionalKeys,
    *,
    now_s: float,
    pin: Pin | None = None,
    tolerance_s: float = DEFAULT_TOLERANCE_S,
) -> float:
    """The latest time that is known to have passed, when the document is still valid then.

    A board without a battery for its clock wakes in the past. So the time is taken to be at least when the
    document was signed, and at least the latest time at which one was accepted (`Pin.seen_at`, which only an
    accepted document moves, so that a clock that once ran ahead spoils at most one document's life). A clock
    that is ahead makes documents look expired; up to `tolerance_s` that is tolerated.

    Args:
        document: a verified document.
        now_s: the device's clock, seconds since 1970.
        pin: what was kept of this gateway.
        tolerance_s: 0 to `MAX_TOLERANCE_S`.

    Raises:
        ExpiredError: the document's time is over.
        ValueError: `tolerance_s` is out of range.
    """
    if not 0 <= tolerance_s <= MAX_TOLERANCE_S:
        raise ValueError(f"tolerance_s must be from 0 to {MAX_TOLERANCE_S}, but it is {tolerance_s}")
    known_s = max(now_s, document.issued_at, pin.seen_at if pin is not None else 0)
    if known_s > document.not_after + tolerance_s:
        raise ExpiredError(
            f"the keys of '{document.gateway}' were valid until {time_text(document.not_after)}, and it is "
            f"{time_text(known_s)} on this device. Fetch its current keys; if the clock is wrong, set it "
            "(timedatectl set-ntp true)"
        )
    return known_s


def _signed_by(payload: bytes, signers: list[Signer], pinned: Collection[str]) -> str:
    """The fingerprint of the first pinned root; every pinned root that is named must have signed rightly."""
    found = [signer for signer in signers if signer.fingerprint in pinned]
    if not found:
        names = ", ".join(signer.fingerprint[:16] for signer in signers)
        raise SignatureError(
            f"the key configuration is signed by {names}, which this device does not trust. When its "
            "operator confirms the whole fingerprint to you, add it to the roots of the endpoint"
        )
    for signer in found:
        if not signer.holds(payload):
            raise SignatureError(
                f"a signature of root {signer.fingerprint[:16]} does not fit the key configuration: it was "
                "changed after it was signed. Fetch it again"
            )
    return found[0].fingerprint
