"""Errors of the channel. All of them are `ChannelError`, which is an `OffloadError`.

ChannelError
├── MessageError           bytes that are no valid message, key configuration or length
│   └── TruncatedError     they end too early: a cut-off stream is never taken for a complete one
├── LimitError             larger than the receiver's limits allow
├── OpenError              cannot be decrypted: damaged, out of order, or sealed to another key
├── UnknownKeyError        sealed to a key that this gateway does not have (RFC 9458 `ohttp-key`)
├── SuiteError             algorithms that are unknown, not offered, or missing in this installation
├── StreamStateError       a sealer or opener used after its end or after a failure
├── KeyFileError           a key file that cannot be read, written or decrypted
└── TrustError             a signed key configuration that is not to be used
    ├── SignatureError     no pinned root has signed it, or a signature is wrong
    ├── ExpiredError       its time is over
    ├── RolledBackError    older than one that was accepted before
    └── MismatchError      of another gateway, region or jurisdiction than the endpoint's

The parsers raise nothing else, whatever bytes they are given; a test holds them to that.
"""

from offload.errors import OffloadError

__all__ = [
    "ChannelError",
    "ExpiredError",
    "KeyFileError",
    "LimitError",
    "MessageError",
    "MismatchError",
    "OpenError",
    "RolledBackError",
    "SignatureError",
    "StreamStateError",
    "SuiteError",
    "TruncatedError",
    "TrustError",
    "UnknownKeyError",
]


class ChannelError(OffloadError):
    """Base of every error of the encrypted channel."""


class MessageError(ChannelError):
    """Bytes that are no valid binary HTTP message, encapsulated message, key configuration or length."""


class TruncatedError(MessageError):
    """The bytes end before the message does."""


class LimitError(ChannelError):
    """Larger than the receiver's limits allow; names the limit."""


class OpenError(ChannelError):
    """Cannot be decrypted: damaged, out of order, or sealed to another key."""


class UnknownKeyError(ChannelError):
    """Sealed to a key that this gateway does not have; the sender needs a newer key configuration."""


class SuiteError(ChannelError):
    """Algorithms that are unknown, not offered by the key, or missing in this installation."""


class StreamStateError(ChannelError):
    """A sealer or opener was used after its end, or after it failed."""


class KeyFileError(ChannelError):
    """A key file cannot be read, written or decrypted; names the file and the way out."""


class TrustError(ChannelError):
    """A signed key configuration that is not to be used; nothing may be sealed to its keys."""


class SignatureError(TrustError):
    """No pinned root has signed the key configuration, or a signature is wrong."""


class ExpiredError(TrustError):
    """The key configuration's time is over."""


class RolledBackError(TrustError):
    """The key configuration is older than one that was accepted before."""


class MismatchError(TrustError):
    """The key configuration is of another gateway, region or jurisdiction than the endpoint's."""
