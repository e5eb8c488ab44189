"""Opening and verifying a package.

Sizes are compared at every opening. SHA-256 is computed in `Package.verify` and when a package is opened for
the first time; for packages inside a models folder a stamp remembers that (`stamps.py`), so that later
openings are quick. Packages elsewhere, shipped ones included, are hashed at every opening: nothing is written
for them. The signature is checked at every opening, and where the policy requires one, so is every byte.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from model_zoo import files as fs
from model_zoo import stamps, store, usage
from model_zoo.errors import IntegrityError, ManifestError, ModelNotFoundError, SignatureError
from model_zoo.manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest, read_manifest
from model_zoo.signing import (
    SignaturePolicy,
    SignatureState,
    check_package,
    read_signature,
    signature_state,
)

__all__ = ["Inspection", "Package", "inspect_package", "open_package"]


@dataclass(frozen=True, slots=True)
class Package:
    """A package folder whose manifest was read.

    `manifest_sha256` is the SHA-256 of the exact bytes of `manifest.json`: since the manifest holds the hash
    of every other file, it names the whole content.
    """

    path: Path
    manifest: Manifest
    manifest_sha256: str
    source: Path
    """What was opened: the folder itself, or the `.edge` file that was unpacked into it."""
    signature: SignatureState
    lease: usage.Lease | None = None
    """Keeps the package from being pruned; only where it was opened to be used."""

    def file(self, name: str) -> Path:
        """The path of a listed file.

        Raises:
            IntegrityError: the package has no such file.
        """
        if name not in self.manifest.files:
            has = ", ".join(sorted(self.manifest.files))
            raise IntegrityError(
                f"{self.source}: the package has no file {name}; it has {has}. {self._way_out()}"
            )
        return self.path / name

    def has(self, name: str) -> bool:
        """Whether the manifest lists a file of that name."""
        return name in self.manifest.files

    def verify(self, full: bool = True, *, progress: fs.Progress | None = None) -> None:
        """Compare the package with its manifest.

        Args:
            full: also compute every SHA-256 and look for files that are not listed; otherwise only presence
                and sizes are checked.
            progress: called with bytes hashed and bytes in total.

        Raises:
            IntegrityError: a file is missing, cut short, changed, a link, or not listed.
        """
        self._check_sizes()
        if full:
            self._check_hashes(progress)
            self._check_for_more()

    def _check_sizes(self) -> None:
        for name, entry in sorted(self.manifest.files.items()):
            path = self.path / name
            if self._leaves(path):
                raise IntegrityError(
                    f"{name}: is a link or lies behind one; a package holds files only. {self._way_out()}"
                )
            try:
                size = path.stat().st_size
            except OSError as error:
                raise IntegrityError(
                    f"{name}: is listed in {MANIFEST_NAME} but cannot be found or read in {self.path} "
                    f"({error.strerror}). {self._way_out()}"
                ) from error
            if not path.is_file() or size != entry.size:
                raise IntegrityError(
                    f"{name}: has {size} bytes but {MANIFEST_NAME} says {entry.size}; "
                    f"the package is damaged. {self._way_out()}"
                )

    def _check_hashes(self, progress: fs.Progress | None) -> None:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, self.manifest.size_bytes)

        for name, entry in sorted(self.manifest.files.items()):
            try:
                _, sha256 = fs.hash_file(self.path / name, advance)
            except OSError as error:
                raise IntegrityError(
                    f"{name}: cannot be read from {self.path}: {error.strerror}. {self._way_out()}"
                ) from error
            if sha256 != entry.sha256:
                raise IntegrityError(
                    f"{name}: SHA-256 is {sha256} but {MANIFEST_NAME} says {entry.sha256}; "
                    f"the package is damaged. {self._way_out()}"
                )

    def _check_for_more(self) -> None:
        listed = {*self.manifest.files, MANIFEST_NAME, SIGNATURE_NAME}
        for path in sorted(self.path.rglob("*")):
            name = path.relative_to(self.path).as_posix()
            if name not in listed and (path.is_symlink() or not path.is_dir()):
                raise IntegrityError(
                    f"{name}: lies in {self.path} but is not listed in {MANIFEST_NAME}; remove that file"
                )

    def _leaves(self, path: Path) -> bool:
        """Whether a member or a folder above it, inside the package, is a symbolic link."""
        while path != self.path:
            if path.is_symlink():
                return True
            path = path.parent
        return False

    def _way_out(self) -> str:
        """What to do about a damaged package."""
        if self.source != self.path:
            return f"Remove {self.path}; it is unpacked from {self.source} again."
        if self.path.parent == store.shipped_dir():
            return "Reinstall the program: pip install --force-reinstall edge-runtime"
        if self.path.parent == store.models_dir():
            return f"Remove it and install it again: edge-runtime models rm {self.path.name}"
        return f"Remove {self.path} and make it again."


@dataclass(frozen=True, slots=True)
class Inspection:
    """A package that was looked at and not opened: nothing is unpacked, no file but the manifest was read."""

    source: Path
    """The package's folder, or its `.edge` file."""
    manifest: Manifest
    manifest_sha256: str
    raw: bytes
    """The exact bytes of `manifest.json`."""
    raw_signature: bytes | None
    """Those of `manifest.sig`, `None` when there is none."""

    def signature(self, policy: SignaturePolicy | None = None) -> SignatureState:
        """What is known of the signature, with the trusted keys of the policy; raises nothing."""
        if self.raw_signature is None and self.source.parent == store.shipped_dir():
            return SignatureState("shipped")
        return signature_state(self.raw, self.raw_signature, policy.trusted if policy else {})

    def verify(
        self, policy: SignaturePolicy | None = None, *, progress: fs.Progress | None = None
    ) -> SignatureState:
        """Check the signature, and compare every byte of the folder or `.edge` file with the manifest.

        Args:
            policy: which signatures will do; by default anything but a bad one.

        Raises:
            SignatureError: the signature is bad, or not what the policy wants.
            IntegrityError: something is missing, changed or not listed.
            PackageError: the `.edge` file cannot be read.
        """
        state = _checked(self.raw, self.raw_signature, policy, self.source)
        if self.source.is_file():
            from model_zoo.archive import verify_archive

            verify_archive(self.source, progress=progress)
        else:
            folder = self.source
            Package(folder, self.manifest, self.manifest_sha256, folder, state).verify(progress=progress)
        return state


def inspect_package(path_or_name: Path | str) -> Inspection:
    """Read a package's manifest, to show it; what `path_or_name` may be is as in `open_package`.

    Raises:
        ModelNotFoundError, ManifestError, PackageError: as `open_package`.
    """
    source = _locate(path_or_name)
    if source.is_file():
        from model_zoo.archive import read_archive_manifest

        manifest, raw, signature = read_archive_manifest(source)
    else:
        manifest, raw = read_manifest(source)
        signature = read_signature(source / SIGNATURE_NAME)
    return Inspection(source, manifest, hashlib.sha256(raw).hexdigest(), raw, signature)


def open_package(
    path_or_name: Path | str,
    *,
    policy: SignaturePolicy | None = None,
    in_use: bool = False,
    progress: fs.Progress | None = None,
    clock: Callable[[], float] = time.time,
) -> Package:
    """Open a package: a folder, an `.edge` file, or the name of an installed or shipped one.

    A text with a slash, or one that ends in `.edge`, is a path; any other text is looked up as a name first
    and as a path when there is no such name. An `.edge` file is unpacked once into the cache folder.

    Args:
        policy: which signatures will do; by default anything but a bad one. A shipped package is part of the
            installation and needs none.
        in_use: it is opened to be run: its last use is remembered, and nobody prunes it before its `lease` is
            closed or the process ends.
        progress: called with bytes hashed and bytes in total, when the package is verified.
        clock: seconds since the epoch, for the age of files and the last use.

    Raises:
        ModelNotFoundError: nothing of that name or path; suggests near names.
        ManifestError: `manifest.json` is missing or wrong.
        SignatureError: the signature is bad, or not what the policy wants.
        IntegrityError: a file is missing, cut short or changed.
        StoreError: an `.edge` file cannot be unpacked (no space, read-only cache).
    """
    source = _locate(path_or_name)
    if source.is_file():
        package = _open_archive(source, policy, in_use, progress, clock)
    else:
        package = _open_folder(source, policy, in_use, progress, clock)
    if in_use:
        usage.mark_used(package.path, clock)
    return package


def _open_folder(
    folder: Path,
    policy: SignaturePolicy | None,
    in_use: bool,
    progress: fs.Progress | None,
    clock: Callable[[], float],
) -> Package:
    while True:
        lease = usage.lease(folder) if in_use else None
        manifest, raw = _read_present(folder)
        try:
            state = _checked(raw, read_signature(folder / SIGNATURE_NAME), policy, folder)
            package = Package(folder, manifest, hashlib.sha256(raw).hexdigest(), folder, state, lease)
            _check_bytes(package, policy, progress, clock)
        except (IntegrityError, SignatureError, FileNotFoundError) as error:
            if _read_present(folder)[1] != raw:
                continue  # another process swapped the package between our reading the manifest and the files
            if isinstance(error, FileNotFoundError):
                package.verify(full=False)  # says which file it was that vanished
            raise
        return package


def _open_archive(
    source: Path,
    policy: SignaturePolicy | None,
    in_use: bool,
    progress: fs.Progress | None,
    clock: Callable[[], float],
) -> Package:
    """Unpack an `.edge` file unless it is there, and hold what was unpacked against the file itself."""
    from model_zoo.archive import read_archive_manifest, unpack_cached

    manifest, raw, signature = read_archive_manifest(source)
    state = _checked(raw, signature, policy, source)  # before a byte is unpacked
    while True:
        folder = unpack_cached(source)
        lease = usage.lease(folder) if in_use else None
        package = Package(folder, manifest, hashlib.sha256(raw).hexdigest(), source, state, lease)
        try:
            unpacked = read_manifest(folder)[1]
        except ManifestError as error:
            if not folder.exists():
                continue  # pruned by another process between unpacking and our taking the lease
            raise IntegrityError(f"{error}. {package._way_out()}") from error
        break
    if unpacked != raw:
        raise IntegrityError(
            f"{folder}: its {MANIFEST_NAME} is not that of {source}, which was unpacked there. "
            f"{package._way_out()}"
        )
    _check_bytes(package, policy, progress, clock)
    return package


def _read_present(folder: Path) -> tuple[Manifest, bytes]:
    """`read_manifest` of a folder that was there a moment ago.

    Raises:
        ModelNotFoundError: another process removed it meanwhile.
    """
    try:
        return read_manifest(folder)
    except ManifestError:
        if not os.path.lexists(folder):
            raise ModelNotFoundError(f"{folder.name}: was removed by another process meanwhile") from None
        raise


def _checked(
    raw: bytes, signature: bytes | None, policy: SignaturePolicy | None, source: Path
) -> SignatureState:
    """What is known of a package's signature, when it may be used.

    Raises:
        SignatureError: the signature is bad, or not what the policy wants.
    """
    if signature is None and source.parent == store.shipped_dir():
        return SignatureState("shipped")  # as good as the program that runs it
    where = source.name if source.parent == store.models_dir() else str(source)
    return check_package(raw, signature, policy or SignaturePolicy(), where)


def _check_bytes(
    package: Package,
    policy: SignaturePolicy | None,
    progress: fs.Progress | None,
    clock: Callable[[], float],
) -> None:
    """Sizes always; hashes unless a stamp says that exactly these files were hashed before.

    Where a signature is required no stamp is believed: whoever can write the folder can write stamps too.
    """
    package.verify(full=False)
    files = sorted(package.manifest.files)
    stamp = stamps.Stamp(package.path, package.manifest_sha256, files)
    required = policy is not None and policy.level == "required"
    if required or not stamp.holds():
        stamp.note(lambda: package.verify(full=True, progress=progress), clock)


def _locate(path_or_name: Path | str) -> Path:
    if isinstance(path_or_name, str):
        text = path_or_name
        looks_like_path = (
            os.sep in text or text.endswith(".edge") or text in ("", ".", "..") or text.startswith("~")
        )
        if not looks_like_path:
            try:
                return store.find(text)
            except ModelNotFoundError:
                if not Path(text).is_dir():
                    raise
    path = Path(os.path.abspath(Path(path_or_name).expanduser()))  # noqa: PTH100 - links stay as the user wrote them
    if not path.exists():
        raise ModelNotFoundError(
            f"{path}: there is no such package folder or .edge file. "
            "`edge-runtime models list` shows what there is"
        )
    return path
