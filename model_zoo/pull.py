"""`models pull`: a name becomes an installed package; nothing is downloaded before it is known to fit.

A pull that breaks off leaves what arrived in the folder `.downloads` of the models folder, and the same
command goes on with it; two pulls of one thing wait for each other.

Knows: what a name can mean. Does not know: how either kind is pulled (`pull_checkpoint`, `pull_package`).
"""

from __future__ import annotations

from collections.abc import Callable

from model_zoo.hub import HubId, parse_id
from model_zoo.manifest import read_manifest
from model_zoo.pull_checkpoint import pull_checkpoint
from model_zoo.pull_package import pull_package
from model_zoo.pulling import Options, Place, Pulled, Report, Silent
from model_zoo.registry import Registry
from model_zoo.registry_file import RegistryEntry
from model_zoo.signing import SignatureState
from model_zoo.store import shipped_dir

__all__ = ["Options", "Place", "Pulled", "Report", "Silent", "pull", "resolve"]

Source = RegistryEntry | HubId | str
"""An entry of a registry, a repository of the hub, or the address of a ready package."""


def resolve(text: str, registry: Callable[[], Registry]) -> Source:
    """What a name means: an address, `owner/name[@revision]`, or an entry of the registries.

    Raises:
        ModelNotFoundError: unknown (names the nearest ones) or ambiguous (lists the choices).
        RegistryError: a registry cannot be read.
    """
    if text.startswith(("http://", "https://")):
        return text
    identifier = parse_id(text)
    if identifier is None:
        return registry().resolve(text)
    if not text.startswith("hf://") and any(
        source.name == identifier.repository.split("/")[0].lower() for source in registry().sources
    ):
        return registry().resolve(text)
    return identifier


def pull(source: Source, options: Options | None = None, place: Place | None = None) -> Pulled:
    """Install a package, unless it is there already.

    Raises:
        PullError: too little disk or memory, an unknown scheme, or another package in the way.
        HubError, DownloadError: not found, gated, out of reach, broken off.
        SignatureError, PackageError: a ready package that is not allowed or damaged.
        StoreError: the models folder cannot be written.
        Errors of the converter: the checkpoint cannot be quantized.
    """
    options, place = options or Options(), place or Place()
    if isinstance(source, str):
        return pull_package(source, None, options, place)
    if isinstance(source, RegistryEntry):
        if source.shipped is not None:
            return _shipped(source, source.shipped)
        if source.url is not None:
            return pull_package(source.url, source, options, place)
        revision = options.revision or source.revision or "main"
        identifier, entry = HubId(source.repository or "", revision), source
        return pull_checkpoint(entry.id, identifier, entry, options, place)
    if options.revision is not None:
        source = source._replace(revision=options.revision)
    return pull_checkpoint(source.repository.split("/")[1].lower(), source, None, options, place)


def _shipped(entry: RegistryEntry, name: str) -> Pulled:
    folder = shipped_dir() / name
    manifest, _ = read_manifest(folder)
    return Pulled(entry.id, folder, manifest, "shipped", 0, SignatureState("shipped"))
