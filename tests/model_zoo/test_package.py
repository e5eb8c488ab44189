"""Opening and verifying: every damage is found and named, and nothing is written where nothing should be."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_zoo import (
    IntegrityError,
    ManifestError,
    ModelNotFoundError,
    PackageError,
    inspect_package,
    open_package,
)

Make = Callable[..., Path]

LATER = 4e9
"""Seconds since the epoch, long after any file of a test was written."""


def later() -> float:
    return LATER


def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed from now on."""
    from model_zoo import files as fs

    names: list[str] = []
    hash_file = fs.hash_file

    def record(path: Path, *args: Any) -> tuple[int, str]:
        names.append(path.name)
        return hash_file(path, *args)

    monkeypatch.setattr(fs, "hash_file", record)
    return names


def damage(folder: Path, text: str, **how: Any) -> None:
    with pytest.raises(IntegrityError) as caught:
        open_package(folder, **how)
    assert text in str(caught.value)


# --- what is found ------------------------------------------------------------------------------------------


def test_a_whole_package_opens_by_path(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "tiny")
    package = open_package(folder)
    assert package.path == package.source == folder
    assert package.file("model.onnx") == folder / "model.onnx"
    assert package.has("docs/LICENSE")
    assert not package.has("calibration.json")
    assert open_package(str(folder)) == package
    monkeypatch.chdir(tmp_path)
    assert open_package("./tiny").path == folder
    assert open_package("tiny").path == folder, "a folder here, when no package has the name"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_flipped_bit_of_any_file_is_found(tmp_path: Path, make: Make, data: st.DataObject) -> None:
    folder = tmp_path / "tiny"
    if not folder.exists():
        make(folder, weights=bytes(range(256)))
    path = folder / data.draw(
        st.sampled_from(["model.onnx", "tokenizer.json", "docs/LICENSE", "manifest.json"])
    )
    content = path.read_bytes()
    position = data.draw(st.integers(0, len(content) - 1))
    flipped = bytearray(content)
    flipped[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        path.write_bytes(flipped)
        with pytest.raises(PackageError):
            inspect_package(folder).verify()
        with pytest.raises(PackageError):
            open_package(folder)
    finally:
        path.write_bytes(content)


def test_a_changed_file_is_named_with_both_hashes(tmp_path: Path, make: Make) -> None:
    folder = make(tmp_path / "tiny", weights=b"abc")
    (folder / "model.onnx").write_bytes(b"abd")
    damage(
        folder,
        "model.onnx: SHA-256 is a52d159f262b2c6ddb724a61840befc36eb30c88877a4030b65cbe86298449c9 but "
        "manifest.json says ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad; "
        f"the package is damaged. Remove {folder} and make it again.",
    )


def test_the_way_out_depends_on_where_the_package_is(models: Path, tmp_path: Path, make: Make) -> None:
    (make(models / "tiny") / "model.onnx").write_bytes(b"")
    damage(models / "tiny", "Remove it and install it again: edge-runtime models rm tiny")
    (make(tmp_path / "shipped" / "own") / "model.onnx").write_bytes(b"")
    damage(tmp_path / "shipped" / "own", "Reinstall the program: pip install --force-reinstall edge-runtime")


@pytest.mark.parametrize("size", [0, 3, 5121])
def test_a_file_of_another_length_is_named_with_both_sizes(tmp_path: Path, make: Make, size: int) -> None:
    folder = make(tmp_path / "tiny")
    (folder / "model.onnx").write_bytes(bytes(size))
    damage(folder, f"model.onnx: has {size} bytes but manifest.json says 5120; the package is damaged.")


def test_a_missing_file_is_named(tmp_path: Path, make: Make) -> None:
    folder = make(tmp_path / "tiny")
    (folder / "docs" / "LICENSE").unlink()
    damage(
        folder,
        f"docs/LICENSE: is listed in manifest.json but cannot be found or read in {folder} (No such file",
    )
    (folder / "docs").rmdir()
    (folder / "docs").write_bytes(b"")
    damage(folder, "docs/LICENSE: is listed in manifest.json but cannot be found or read")


def test_a_link_that_is_not_listed_is_named(tmp_path: Path, make: Make) -> None:
    folder = make(tmp_path / "tiny")
    (folder / "more").symlink_to("/")
    damage(folder, f"more: lies in {folder} but is not listed in manifest.json; remove that file")


def test_a_file_that_is_not_listed_is_named(tmp_path: Path, make: Make) -> None:
    folder = make(tmp_path / "tiny")
    (folder / "docs" / "extra.txt").write_bytes(b"")
    damage(folder, f"docs/extra.txt: lies in {folder} but is not listed in manifest.json; remove that file")


@pytest.mark.parametrize("name", ["model.onnx", "docs"])
def test_a_link_is_refused_even_to_the_right_bytes(tmp_path: Path, make: Make, name: str) -> None:
    folder = make(tmp_path / "tiny")
    (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    damage(folder, "is a link or lies behind one; a package holds files only.")


def test_a_folder_in_place_of_a_file_is_damage(tmp_path: Path, make: Make) -> None:
    folder = make(tmp_path / "tiny")
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()
    damage(folder, "model.onnx: has ")


def test_a_folder_without_manifest_says_how_one_is_made(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        open_package(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: is not a model package: it has no manifest.json. "
        "Make one with: edge-runtime quantize SRC OUT"
    )


def test_a_manifest_that_cannot_be_read_is_said(tmp_path: Path, make: Make) -> None:
    folder = make(tmp_path / "tiny")
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()
    with pytest.raises(
        ManifestError, match=r"manifest\.json: cannot be read: Is a directory; check its permissions"
    ):
        open_package(folder)


def test_a_path_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        open_package(tmp_path / "nothing")
    assert str(caught.value) == (
        f"{tmp_path / 'nothing'}: there is no such package folder or .edge file. "
        "`edge-runtime models list` shows what there is"
    )


def test_a_file_that_the_package_does_not_have_is_named_with_those_it_has(tmp_path: Path, make: Make) -> None:
    package = open_package(make(tmp_path / "tiny"))
    with pytest.raises(
        IntegrityError, match=r"has no file chat_template\.jinja; it has docs/LICENSE, model\.onnx, tok"
    ):
        package.file("chat_template.jinja")


def test_progress_counts_every_byte_of_the_files(tmp_path: Path, make: Make) -> None:
    seen: list[tuple[int, int]] = []
    package = open_package(make(tmp_path / "tiny"), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (package.manifest.size_bytes, package.manifest.size_bytes)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


# --- verified once ------------------------------------------------------------------------------------------


def test_an_installed_package_is_hashed_once(
    models: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(models / "tiny")
    names = hashed(monkeypatch)
    open_package("tiny", clock=later)
    assert names == ["LICENSE", "model.onnx", "tokenizer.json"]
    names.clear()
    open_package("tiny", clock=later)
    open_package(models / "tiny", clock=later)
    assert names == []
    open_package("tiny", clock=later).verify()
    assert len(names) == 3, "verify always reads every byte"


def test_a_file_changed_after_it_was_verified_is_hashed_again(models: Path, make: Make) -> None:
    make(models / "tiny")
    open_package("tiny", clock=later)
    path = models / "tiny" / "model.onnx"
    info = path.stat()
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))  # same size, same mtime
    damage(models / "tiny", "model.onnx: SHA-256 is ", clock=later)


def test_a_package_put_in_the_place_of_a_verified_one_is_hashed(
    models: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(models / "tiny")
    open_package("tiny", clock=later)
    make(models / "tiny", overwrite=True, parameters=7)
    names = hashed(monkeypatch)
    open_package("tiny", clock=later)
    assert len(names) == 3


def test_files_written_a_moment_ago_are_not_yet_taken_as_settled(
    models: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = (make(models / "tiny") / "model.onnx").stat().st_mtime
    open_package("tiny", clock=lambda: written + 0.5)
    names = hashed(monkeypatch)
    open_package("tiny", clock=later)
    assert len(names) == 3


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": 3}'])
def test_a_damaged_stamp_only_costs_another_verification(
    models: Path, make: Make, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    make(models / "tiny")
    open_package("tiny", clock=later)
    stamp = models / ".verified" / "tiny.json"
    assert json.loads(stamp.read_text())["files"]
    stamp.write_text(content)
    names = hashed(monkeypatch)
    open_package("tiny", clock=later)
    assert len(names) == 3


def test_a_models_folder_that_cannot_be_written_only_costs_another_verification(
    models: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(models / "tiny")
    (models / ".verified").write_bytes(b"a file where the stamps' folder should be")
    open_package("tiny", clock=later)
    names = hashed(monkeypatch)
    open_package("tiny", clock=later)
    assert len(names) == 3


def test_nothing_is_written_for_a_package_outside_of_the_models_folder(
    tmp_path: Path, models: Path, make: Make, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "shipped" / "own")
    make(tmp_path / "elsewhere" / "tiny")
    names = hashed(monkeypatch)
    for _ in range(2):
        open_package("own", clock=later)
        open_package(tmp_path / "elsewhere" / "tiny", clock=later)
    assert len(names) == 12, "each time every file"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "shipped"]
    assert [path.name for path in (tmp_path / "shipped").iterdir()] == ["own"]
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["tiny"]
    assert list(home.iterdir()) == []


def test_looking_at_a_package_reads_its_manifest_alone(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "tiny")
    manifest = open_package(folder).manifest
    (folder / "model.onnx").write_bytes(b"damaged")
    names = hashed(monkeypatch)
    seen = inspect_package(folder)
    assert seen.manifest == manifest
    assert names == []
    with pytest.raises(IntegrityError, match=r"model\.onnx: has 7 bytes"):
        seen.verify()
