"""Errors of the store and of what lives in it.

OffloadError
└── StoreError           the store cannot be opened, read or written
    ├── StoreBusyError   another process owns it
    ├── StoreFullError   the disk is full; nothing of what was asked is there
    ├── StoreReadOnlyError   the disk or file cannot be written
    ├── StoreVersionError    a newer release wrote it
    ├── StoreSettingsError   SQLite did not take a setting that a promise rests on
    ├── StoreClosedError     it was closed
    ├── StoreKeyError    a key file is missing, open to others, or wrong
    ├── KeyLostError     content was sealed under a key that is not there any more
    └── SealError        sealed content was altered or damaged
"""

from offload.errors import OffloadError

__all__ = [
    "KeyLostError",
    "SealError",
    "StoreBusyError",
    "StoreClosedError",
    "StoreError",
    "StoreFullError",
    "StoreKeyError",
    "StoreReadOnlyError",
    "StoreSettingsError",
    "StoreVersionError",
]


class StoreError(OffloadError):
    """The store cannot be opened, read or written."""


class StoreBusyError(StoreError):
    """Another process owns the store; names it."""


class StoreFullError(StoreError):
    """The disk is full. Nothing of what was asked is in the store."""


class StoreReadOnlyError(StoreError):
    """The disk or the file cannot be written."""


class StoreVersionError(StoreError):
    """A newer release wrote this store."""


class StoreSettingsError(StoreError):
    """SQLite did not take a setting that a promise rests on."""


class StoreClosedError(StoreError):
    """The store was closed."""


class StoreKeyError(StoreError):
    """A key cannot be read, is open to others, or is none."""


class KeyLostError(StoreError):
    """Content was sealed under a key that is not there any more."""


class SealError(StoreError):
    """Sealed content was altered or damaged, or stands in another place than it was sealed for."""
