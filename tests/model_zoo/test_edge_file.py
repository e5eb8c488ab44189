"""The `.edge` file: same package, same bytes; nothing that its manifest does not list gets out of it."""

import io
import os
import stat
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from model_zoo import (
    IntegrityError,
    ManifestError,
    PackageError,
    PrivateKey,
    StoreError,
    inspect_package,
    open_package,
    pack,
    sign_package,
    unpack,
)
from model_zoo import archive as edge

Make = Callable[..., Path]


@pytest.fixture
def edge_file(tmp_path: Path, make: Make) -> Path:
    return pack(make(tmp_path / "tiny"), tmp_path / "tiny.edge")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edge-runtime" / "unpacked"


def rebuilt(
    source: Path, change: Callable[[zipfile.ZipInfo, bytes], tuple[str, bytes] | None], *more: str
) -> Path:
    """A copy of an `.edge` file with members changed, dropped (`None`) or added (`more`, empty)."""
    out = source.with_name("changed.edge")
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            member = change(info, old.read(info))
            if member is not None:
                new.writestr(*member)
        for name in more:
            new.writestr(name, b"")
    return out


def same(info: zipfile.ZipInfo, content: bytes) -> tuple[str, bytes]:
    return info.filename, content


def refused(path: Path, error: type[PackageError], text: str) -> None:
    """Refused alike by unpacking, opening and verifying; nothing is left where it would have gone."""
    target = path.parent / "target"
    actions: list[Callable[[], object]] = [
        lambda: unpack(path, target),
        lambda: open_package(path),
        lambda: inspect_package(path).verify(),
    ]
    for action in actions:
        with pytest.raises(error) as caught:
            action()
        assert text in str(caught.value)
        assert not target.exists()
    assert not list(path.parent.glob("*partial*"))


# --- packing ------------------------------------------------------------------------------------------------


def test_the_same_package_gives_the_same_bytes(tmp_path: Path, make: Make, edge_file: Path) -> None:
    other = make(tmp_path / "copy" / "tiny")
    for path in other.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    assert pack(other, tmp_path / "again.edge").read_bytes() == edge_file.read_bytes()


def test_members_are_stored_sorted_and_carry_no_times(edge_file: Path) -> None:
    with zipfile.ZipFile(edge_file) as archive:
        infos = archive.infolist()
    assert [info.filename for info in infos] == [
        "manifest.json",
        "docs/LICENSE",
        "model.onnx",
        "tokenizer.json",
    ]
    for info in infos:
        assert info.compress_type == zipfile.ZIP_STORED
        assert info.date_time == (1980, 1, 1, 0, 0, 0)
        assert stat.S_IMODE(info.external_attr >> 16) == 0o644


def test_a_packed_package_comes_back_as_it_was(tmp_path: Path, edge_file: Path) -> None:
    manifest = unpack(edge_file, tmp_path / "back")
    package = open_package(tmp_path / "back")
    package.verify()
    assert package.manifest == manifest
    assert (tmp_path / "back" / "manifest.json").read_bytes() == (
        tmp_path / "tiny" / "manifest.json"
    ).read_bytes()
    assert pack(tmp_path / "back", tmp_path / "b.edge").read_bytes() == edge_file.read_bytes()


def test_a_signature_travels_with_its_package(tmp_path: Path, make: Make) -> None:
    folder = make(tmp_path / "tiny")
    sign_package(folder, PrivateKey.generate())
    unpack(pack(folder, tmp_path / "a.edge"), tmp_path / "back")
    assert (tmp_path / "back" / "manifest.sig").read_bytes() == (folder / "manifest.sig").read_bytes()


def test_a_damaged_package_is_not_packed(tmp_path: Path, make: Make) -> None:
    folder = make(tmp_path / "tiny")
    (folder / "model.onnx").write_bytes(b"x")
    with pytest.raises(
        IntegrityError, match=r"model\.onnx is not what manifest\.json says; a damaged package is not"
    ):
        pack(folder, tmp_path / "a.edge")
    (folder / "model.onnx").unlink()
    with pytest.raises(IntegrityError, match=r"model\.onnx cannot be read: No such file"):
        pack(folder, tmp_path / "a.edge")
    assert list(tmp_path.iterdir()) == [tmp_path / "tiny"]


def test_an_existing_file_is_kept_unless_asked(tmp_path: Path, make: Make, edge_file: Path) -> None:
    before = edge_file.read_bytes()
    other = make(tmp_path / "other", weights=b"x")
    with pytest.raises(
        StoreError, match=r"tiny\.edge: exists already\. Choose another name, or remove it first"
    ):
        pack(other, edge_file)
    assert edge_file.read_bytes() == before
    pack(other, edge_file, overwrite=True)
    assert inspect_package(edge_file).manifest.id == "other"


def test_a_disk_that_is_full_halfway_leaves_no_half_file(
    small_disk: Path, tmp_path: Path, make: Make
) -> None:
    folder = make(tmp_path / "big", weights=bytes(2 << 20))
    with pytest.raises(StoreError, match=r"a\.edge: cannot write it: No space left on device; "):
        pack(folder, small_disk / "a.edge")
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_is_full_at_the_end_leaves_no_half_file(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    folder = make(tmp_path / "tiny")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        StoreError, match=r"a\.edge: cannot write it: No space left on device; .* are free there"
    ):
        pack(folder, tmp_path / "a.edge")
    assert list(tmp_path.iterdir()) == [tmp_path / "tiny"]


# --- opening ------------------------------------------------------------------------------------------------


def test_an_edge_file_is_unpacked_once(edge_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_package(edge_file)
    assert first.path.parent == cache
    assert first.source == edge_file
    monkeypatch.setattr(edge, "unpack", lambda *args: pytest.fail("it is unpacked already"))
    assert open_package(str(edge_file)).path == first.path


def test_another_content_of_the_same_name_is_unpacked_anew(
    tmp_path: Path, make: Make, edge_file: Path, cache: Path
) -> None:
    first = open_package(edge_file)
    pack(make(tmp_path / "tiny", weights=b"new", overwrite=True), edge_file, overwrite=True)
    assert open_package(edge_file).path != first.path
    assert (open_package(edge_file).path / "model.onnx").read_bytes() == b"new"


def test_damage_to_what_was_unpacked_is_found_with_the_way_out(edge_file: Path, cache: Path) -> None:
    folder = open_package(edge_file).path
    (folder / "model.onnx").write_bytes(b"x")
    with pytest.raises(IntegrityError) as caught:
        open_package(edge_file)
    assert f"Remove {folder}; it is unpacked from {edge_file} again." in str(caught.value)


def test_looking_at_and_verifying_an_edge_file_unpacks_nothing(edge_file: Path, cache: Path) -> None:
    seen: list[tuple[int, int]] = []
    inspection = inspect_package(edge_file)
    inspection.verify(progress=lambda done, total: seen.append((done, total)))
    assert inspection.manifest.id == "tiny"
    assert seen[-1] == (inspection.manifest.size_bytes, inspection.manifest.size_bytes)
    assert not cache.exists()


def test_too_little_space_is_said_before_anything_is_unpacked(
    edge_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Disk:
        free = 4096

    monkeypatch.setattr("shutil.disk_usage", lambda path: Disk)
    with pytest.raises(StoreError) as caught:
        open_package(edge_file)
    assert (
        "unpacking needs 5.0 KiB but only 4.0 KiB are free there. Free some space, or unpack elsewhere"
        in str(caught.value)
    )
    assert "XDG_CACHE_HOME" in str(caught.value)
    assert not cache.exists()


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "evil", "..\\evil", "docs/"])
def test_a_member_that_the_manifest_does_not_list_is_refused(edge_file: Path, cache: Path, name: str) -> None:
    path = rebuilt(edge_file, same, name)
    refused(
        path,
        PackageError,
        f"holds {name!r}, which manifest.json does not list; it is refused. Fetch it again",
    )
    assert not (edge_file.parent.parent / "evil").exists()


def test_a_member_that_stands_there_twice_is_refused(edge_file: Path, cache: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = rebuilt(edge_file, same, "model.onnx")
    refused(path, PackageError, "holds 'model.onnx' twice; it is refused. Fetch it again")


def test_a_missing_member_is_named(edge_file: Path, cache: Path) -> None:
    path = rebuilt(
        edge_file, lambda info, content: None if "LICENSE" in info.filename else same(info, content)
    )
    refused(path, IntegrityError, "docs/LICENSE is listed in manifest.json but is not there. Fetch it again")


@pytest.mark.parametrize("content", [b"", b"short", bytes(5120), bytes(1 << 22)])
def test_a_member_with_other_content_is_named(edge_file: Path, cache: Path, content: bytes) -> None:
    path = rebuilt(
        edge_file, lambda info, old: (info.filename, content if info.filename == "model.onnx" else old)
    )
    refused(
        path, IntegrityError, "model.onnx is not what manifest.json says; the file is damaged. Fetch it again"
    )


def test_a_member_that_inflates_without_end_is_cut_off_at_its_listed_size(
    edge_file: Path, cache: Path
) -> None:
    out = edge_file.with_name("bomb.edge")
    with zipfile.ZipFile(edge_file) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, bytes(1 << 26) if info.filename == "model.onnx" else old.read(info))
    assert out.stat().st_size < 1 << 20
    refused(out, IntegrityError, "model.onnx is not what manifest.json says")


def test_a_compressed_edge_file_of_other_makers_is_read(tmp_path: Path, edge_file: Path) -> None:
    out = tmp_path / "deflated.edge"
    with zipfile.ZipFile(edge_file) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    unpack(out, tmp_path / "back")
    open_package(tmp_path / "back").verify()


def test_an_encrypted_or_oddly_compressed_member_is_refused(edge_file: Path, cache: Path) -> None:
    content = bytearray(edge_file.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 8] |= 1  # general purpose flag of the first entry of the central directory
    path = edge_file.with_name("locked.edge")
    path.write_bytes(content)
    refused(
        path,
        PackageError,
        "'manifest.json' is encrypted or compressed in an unknown way. Make the file with:",
    )
    out = edge_file.with_name("lzma.edge")
    with zipfile.ZipFile(edge_file) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    refused(out, PackageError, "is encrypted or compressed in an unknown way")


def test_what_is_no_zip_is_refused(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "x.edge"
    path.write_bytes(b"not a zip")
    refused(
        path,
        PackageError,
        "x.edge: cannot be read as an .edge file: File is not a zip file. It is damaged or",
    )


def test_a_zip_without_manifest_is_refused(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "x.edge"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.jpg", b"x")
    refused(path, ManifestError, "x.edge: is not a model package: it has no manifest.json")


def test_a_manifest_that_lists_a_way_out_is_refused(edge_file: Path, cache: Path) -> None:
    path = rebuilt(
        edge_file, lambda info, content: (info.filename, content.replace(b"docs/LICENSE", b"../../LICENSE"))
    )
    refused(path, ManifestError, 'files["../../LICENSE"]: the path must not contain')


def test_an_edge_file_cut_short_at_any_length_is_refused(edge_file: Path, cache: Path) -> None:
    content = edge_file.read_bytes()
    path = edge_file.with_name("short.edge")
    for length in [*range(0, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(PackageError, match=r"cannot be read as an \.edge file"):
            inspect_package(path).verify()


def test_any_damaged_byte_of_a_member_is_found(edge_file: Path, cache: Path) -> None:
    content = edge_file.read_bytes()
    path = edge_file.with_name("flipped.edge")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        info = archive.getinfo("model.onnx")
    lengths = struct.unpack_from("<HH", content, info.header_offset + 26)  # of the name and the extra field
    start = info.header_offset + 30 + sum(lengths)
    for position in range(start, start + info.file_size, 211):
        flipped = bytearray(content)
        flipped[position] ^= 0x10
        path.write_bytes(flipped)
        with pytest.raises(PackageError):
            inspect_package(path).verify()


def test_another_program_reads_the_file(tmp_path: Path, edge_file: Path) -> None:
    """The system's Python, as a program of its own, lists and tests the archive."""
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "zipfile", "-t", str(edge_file)], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "Done testing" in done.stdout
