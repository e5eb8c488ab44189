"""Errors of `model_zoo`; one base class. `edge_runtime/errors.py` draws the whole picture.

ModelZooError
├── PackageError            a package on disk cannot be used
│   ├── ManifestError       manifest.json is missing, unreadable or breaks the schema
│   └── IntegrityError      a file's size or SHA-256 differs from the manifest, or the file is missing
├── SignatureError          a signature is bad, or the policy wants another one
├── KeyFileError            a key file is missing, readable by others or no key
├── ModelNotFoundError      no package of that name or path
├── RegistryError           a registry of models is missing, unreadable or breaks its format
└── StoreError              the models folder cannot be written (read-only, full, name taken)
"""

__all__ = [
    "IntegrityError",
    "KeyFileError",
    "ManifestError",
    "ModelNotFoundError",
    "ModelZooError",
    "PackageError",
    "RegistryError",
    "SignatureError",
    "StoreError",
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


class StoreError(ModelZooError):
    """A package cannot be written: read-only folder, no space, name taken."""
