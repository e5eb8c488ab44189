"""QUIC's variable-length integers (RFC 9000, section 16): 1, 2, 4 or 8 bytes, up to 2**62 - 1.

The two highest bits of the first byte give the length. A value may be written longer than it needs to be;
we write the shortest form and read every form, as RFC 9292 (section 3) and chunked OHTTP want.
"""

from __future__ import annotations

from offload.channel.errors import MessageError

__all__ = ["MAX", "decode", "encode", "size"]

MAX = (1 << 62) - 1
"""The greatest value."""


def encode(value: int) -> bytes:
    """The shortest form of `value`.

    Raises:
        ValueError: it is negative or greater than `MAX`.
    """
    for prefix, length in enumerate((1, 2, 4, 8)):
        if 0 <= value < 1 << (8 * length - 2):
            return (value | prefix << (8 * length - 2)).to_bytes(length, "big")
    raise ValueError(f"{value} is not from 0 to 2**62 - 1")


def size(first: int) -> int:
    """How many bytes the integer has whose first byte is `first`."""
    return 1 << (first >> 6)


def decode(data: bytes) -> int:
    """The value of an integer that fills `data` exactly.

    Raises:
        MessageError: `data` is of another length than its first byte says.
    """
    if not data or len(data) != size(data[0]):
        raise MessageError(f"{data[:9].hex() or 'nothing'} is not one variable-length integer (RFC 9000)")
    return int.from_bytes(data, "big") & ((1 << (8 * len(data) - 2)) - 1)
