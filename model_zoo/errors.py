"""Errors of `model_zoo`; one base class. `edge_runtime/errors.py` draws the whole picture.

ModelZooError
├── PackageError            a package on disk cannot be used
│   ├── ManifestError       manifest.json is missing, unreadable or breaks the schema
│   └── IntegrityError      a file's size or SHA-256 differs from the manifest, or the file is missing
├── SignatureError          a signature is bad, or the policy wants another one
├── KeyFileError            a key file is missing, readable by others or no key
├── ModelNotFoundError      no package of that name or path
├── RegistryError           a registry of models is missing, unreadable or breaks its format
├── DownloadError           an address does not give what it should (out of reach, refused, other bytes)
│   └── HubError            the hub does not give a checkpoint (gated, missing, offline)
├── PullError               a model cannot be pulled here (too little disk or memory, no converter)
├── StoreError              the models folder cannot be written (read-only, full, name taken)
└── UnknownBoardError       no board of that name to recommend models for
"""

__all__ = [
    "DownloadError",
    "HubError",
    "IntegrityError",
    "KeyFileError",
    "ManifestError",
    "ModelNotFoundError",
    "ModelZooError",
    "PackageError",
    "PullError",
    "RegistryError",
    "SignatureError",
    "StoreError",
    "UnknownBoardError",
]


class ModelZooError(Exception):
    """Base of every error that `model_zoo` raises on purpose."""


class PackageError(ModelZooError):
    """A package on disk cannot be used."""


class ManifestError(PackageError):
    """`manifest.json` is missing, unreadable or breaks the schema."""


class IntegrityError(PackageError):
    """A packaged file is missing or differs from what the manifest says."""


class SignatureError(ModelZooError):
    """A signature is bad, or the policy wants another one."""


class KeyFileError(ModelZooError):
    """A key file is missing, readable by others, or holds no key of the wanted kind."""


class ModelNotFoundError(ModelZooError):
    """No package of that name or path."""


class RegistryError(ModelZooError):
    """A registry of models is missing, cannot be read or breaks its format."""


class DownloadError(ModelZooError):
    """An address does not give what it should.

    `status` is the HTTP status and `code` the hub's own code of the answer that said so, `retry_after` the
    seconds that a server wished for; `None` where there was none.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after


class HubError(DownloadError):
    """The hub does not give a checkpoint: gated, missing, or out of reach and not in the cache."""


class PullError(ModelZooError):
    """A model cannot be pulled onto this device: too little disk or memory, or nothing to convert it with."""


class StoreError(ModelZooError):
    """A package cannot be written: read-only folder, no space, name taken."""


class UnknownBoardError(ModelZooError):
    """No board of that name to recommend models for."""
