"""Model packages on disk.

Knows: the package format (`manifest.json` and its schema), writing a package whole or not at all, opening and
verifying one (a folder or an `.edge` file), signatures over it, and where packages live (shipped ones and the
user's models folder).

Registries, recommending and downloading are modules of their own (`model_zoo.registry`, `.recommend`,
`.boards`), not imported here: answering a query does without them.

Does not know: how to run a model, how one is made from a checkpoint, or anything of the cloud.
"""

from model_zoo.archive import pack, unpack
from model_zoo.errors import (
    IntegrityError,
    KeyFileError,
    ManifestError,
    ModelNotFoundError,
    ModelZooError,
    PackageError,
    RegistryError,
    SignatureError,
    StoreError,
)
from model_zoo.keys import PrivateKey, PublicKey, read_public_keys
from model_zoo.manifest import (
    FileEntry,
    Generation,
    Licence,
    Manifest,
    Memory,
    Quantization,
    Source,
)
from model_zoo.package import Inspection, Package, inspect_package, open_package
from model_zoo.signing import (
    SignaturePolicy,
    SignatureState,
    check_package,
    check_registry,
    sign_file,
    sign_package,
)
from model_zoo.store import Entry, find, list_packages, models_dir, remove, shipped_dir
from model_zoo.usage import Lease, last_used
from model_zoo.writer import PackageWriter, amend

__all__ = [
    "Entry",
    "FileEntry",
    "Generation",
    "Inspection",
    "IntegrityError",
    "KeyFileError",
    "Lease",
    "Licence",
    "Manifest",
    "ManifestError",
    "Memory",
    "ModelNotFoundError",
    "ModelZooError",
    "Package",
    "PackageError",
    "PackageWriter",
    "PrivateKey",
    "PublicKey",
    "Quantization",
    "RegistryError",
    "SignatureError",
    "SignaturePolicy",
    "SignatureState",
    "Source",
    "StoreError",
    "amend",
    "check_package",
    "check_registry",
    "find",
    "inspect_package",
    "last_used",
    "list_packages",
    "models_dir",
    "open_package",
    "pack",
    "read_public_keys",
    "remove",
    "shipped_dir",
    "sign_file",
    "sign_package",
    "unpack",
]
