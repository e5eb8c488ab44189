"""A package is there whole or not at all: after errors, kills, full disks, and for readers during a swap."""

import ctypes
import errno
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_zoo import (
    IntegrityError,
    Manifest,
    ManifestError,
    ModelNotFoundError,
    PackageWriter,
    StoreError,
    amend,
    open_package,
)
from model_zoo import files as fs

Fields = Callable[..., dict[str, Any]]
Make = Callable[..., Path]

ROOT = Path(__file__).resolve().parents[2]

WRITE_AND_STOP = """
    import json, os, sys
    from pathlib import Path
    from model_zoo import PackageWriter, files as fs

    target, point, fields = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])

    def stop(here):
        if here == point:
            print("here", flush=True)
            sys.stdin.read()  # until we are killed

    rename_new, exchange = fs.rename_new, fs.exchange
    def stopping_rename(source, target):
        stop("before the rename")
        rename_new(source, target)
    def stopping_exchange(source, target):
        exchange(source, target)
        stop("after the swap")
    fs.rename_new, fs.exchange = stopping_rename, stopping_exchange

    with PackageWriter(target, overwrite=sys.argv[4] == "1") as writer:
        stop("at the start")
        with writer.create("model.onnx") as file:
            file.write(b"n" * 100_000)
            stop("in the middle of a file")
            file.write(b"n" * 100_000)
        writer.path("tokenizer.json").write_text("{}")
        stop("before commit")
        writer.commit(fields, progress=lambda done, total: stop("while hashing"))
    stop("after commit")
"""
POINTS = ("at the start", "in the middle of a file", "before commit", "while hashing", "before the rename")


def kill_at(point: str, target: Path, fields: dict[str, Any], *, overwrite: bool = False) -> None:
    """Let another process write a package and kill it (SIGKILL) at a point."""
    script = textwrap.dedent(WRITE_AND_STOP)
    command = [sys.executable, "-c", script, str(target), point, json.dumps(fields), str(int(overwrite))]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"here\n", "the process ended before the point"
        child.kill()
        assert child.wait() == -9


def write(target: Path, steps: Callable[[PackageWriter], None]) -> None:
    """Take steps inside a writer's block."""
    with PackageWriter(target) as writer:
        steps(writer)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- writing ------------------------------------------------------------------------------------------------


def test_the_manifest_lists_what_was_written_however_it_was_written(tmp_path: Path, fields: Fields) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"copied")
    with PackageWriter(tmp_path / "out" / "tiny") as writer:
        with writer.create("model.onnx.data") as file:
            file.write(b"abc")
            assert file.align(4096) == file.tell() == 4096
            file.write(memoryview(b"\0\0\0\0").cast("f"))
        writer.path("sub/folder/a.bin").write_bytes(b"directly")
        writer.copy("LICENSE", source)
        writer.add("card.md", "ü")
        manifest = writer.commit(fields())
    folder = tmp_path / "out" / "tiny"
    assert {name: entry.size for name, entry in manifest.files.items()} == {
        "LICENSE": 6,
        "card.md": 2,
        "model.onnx.data": 4100,
        "sub/folder/a.bin": 8,
    }
    for name, entry in manifest.files.items():
        assert fs.hash_file(folder / name) == (entry.size, entry.sha256)
    assert open_package(folder).manifest == manifest
    assert Manifest.from_json((folder / "manifest.json").read_bytes()) == manifest
    assert left_in(tmp_path / "out") == ["tiny"]


def test_a_file_written_again_by_its_path_is_hashed_again(tmp_path: Path, fields: Fields) -> None:
    with PackageWriter(tmp_path / "tiny") as writer:
        writer.add("model.onnx", b"old")
        writer.path("model.onnx").write_bytes(b"new")
        writer.commit(fields())
    open_package(tmp_path / "tiny").verify()


def test_a_manifest_object_is_taken_as_well_as_plain_values(
    tmp_path: Path, fields: Fields, make: Make
) -> None:
    manifest = open_package(make(tmp_path / "a")).manifest
    with PackageWriter(tmp_path / "b") as writer:
        writer.add("other", b"x")
        written = writer.commit(manifest)
    assert written.id == "a"
    assert list(written.files) == ["other"]
    assert written.revision != manifest.revision
    open_package(tmp_path / "b").verify()


def test_optional_keys_that_are_none_are_left_out(tmp_path: Path, fields: Fields) -> None:
    quantization = {"scheme": "fp32", "method": "none", "bits": 32, "block_size": None}
    with PackageWriter(tmp_path / "tiny") as writer:
        writer.add("model.onnx", b"x")
        manifest = writer.commit(fields(quantization=quantization, engine_options={"x": None}))
    assert manifest.quantization.block_size is None
    assert manifest.engine_options == {"x": None}, "free tables are kept as they are"
    assert "block_size" not in (tmp_path / "tiny" / "manifest.json").read_text()


def test_progress_ends_with_every_byte(tmp_path: Path, fields: Fields) -> None:
    seen: list[tuple[int, int]] = []
    with PackageWriter(tmp_path / "tiny") as writer:
        writer.add("a", b"x" * 10)
        writer.path("b").write_bytes(b"x" * 20)
        writer.commit(fields(), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (30, 30)


# --- errors leave nothing behind ----------------------------------------------------------------------------


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt(), Interrupted()])
def test_an_exception_passes_through_and_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def steps(writer: PackageWriter) -> None:
        writer.add("model.onnx", b"x")
        raise error

    with pytest.raises(type(error)):
        write(tmp_path / "tiny", steps)
    assert left_in(tmp_path) == []


def test_leaving_without_commit_leaves_nothing(tmp_path: Path) -> None:
    with PackageWriter(tmp_path / "tiny") as writer:
        writer.add("model.onnx", b"x")
    assert left_in(tmp_path) == []


def test_a_wrong_manifest_leaves_nothing_and_names_the_key(tmp_path: Path, fields: Fields) -> None:
    def steps(writer: PackageWriter) -> None:
        writer.add("model.onnx", b"x")
        writer.commit(fields(engine="tvm"))

    with pytest.raises(ManifestError, match='engine: is "tvm" but must be'):
        write(tmp_path / "tiny", steps)
    assert left_in(tmp_path) == []


def test_an_empty_package_is_refused(tmp_path: Path, fields: Fields) -> None:
    with (
        pytest.raises(StoreError, match="a package needs at least one file"),
        PackageWriter(tmp_path / "t") as writer,
    ):
        writer.commit(fields())
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("name", ["../x", "/x", "manifest.json", "a\\b", ""])
def test_a_name_that_would_leave_the_package_is_refused(tmp_path: Path, name: str) -> None:
    with (
        pytest.raises(StoreError, match="cannot hold a file named"),
        PackageWriter(tmp_path / "tiny") as writer,
    ):
        writer.path(name)


def test_a_link_does_not_get_into_a_package(tmp_path: Path, fields: Fields) -> None:
    def steps(writer: PackageWriter) -> None:
        writer.path("link").symlink_to("/etc/passwd")
        writer.commit(fields())

    with pytest.raises(StoreError, match=r"link is not a plain file; a package holds files only, no links"):
        write(tmp_path / "tiny", steps)
    assert left_in(tmp_path) == []


def test_a_writer_outside_its_block_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the package writer is not open; use it in a `with` block"):
        PackageWriter(tmp_path / "tiny").path("x")


def test_a_taken_name_is_refused_before_anything_is_written(tmp_path: Path, make: Make) -> None:
    make(tmp_path / "tiny")
    with pytest.raises(StoreError) as caught, PackageWriter(tmp_path / "tiny"):
        pytest.fail("the block must not run")
    assert str(caught.value) == (
        f"{tmp_path / 'tiny'}: exists already. Choose another name, remove it first, "
        "or ask for it to be overwritten"
    )
    open_package(tmp_path / "tiny").verify()


def test_a_name_that_was_taken_meanwhile_is_refused(tmp_path: Path, make: Make, fields: Fields) -> None:
    def steps(writer: PackageWriter) -> None:
        writer.add("model.onnx", b"mine")
        make(tmp_path / "tiny", weights=b"theirs")
        writer.commit(fields())

    with pytest.raises(StoreError, match="exists already"):
        write(tmp_path / "tiny", steps)
    assert (tmp_path / "tiny" / "model.onnx").read_bytes() == b"theirs"
    assert left_in(tmp_path) == ["tiny"]


def test_only_packages_are_overwritten(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(b"x")
    with (
        pytest.raises(StoreError, match=r"photos: is not a model package, so it is not overwritten"),
        PackageWriter(tmp_path / "photos", overwrite=True),
    ):
        pytest.fail("the block must not run")
    assert (tmp_path / "photos" / "1.jpg").exists()


# --- the operating system refuses ---------------------------------------------------------------------------


def test_a_full_disk_is_named_with_the_way_out(small_disk: Path, fields: Fields, make: Make) -> None:
    make(small_disk / "old")

    def steps(writer: PackageWriter) -> None:
        with writer.create("model.onnx.data") as file:
            for _ in range(64):
                file.write(bytes(64 * 1024))
        writer.commit(fields())

    with pytest.raises(StoreError) as caught:
        write(small_disk / "tiny", steps)
    assert str(caught.value).startswith(f"{small_disk / 'tiny'}: cannot write it: No space left on device; ")
    assert "Free some space or choose a folder on another disk; nothing half-written was left" in str(
        caught.value
    )
    assert left_in(small_disk) == ["old"]
    open_package(small_disk / "old").verify()


def test_a_read_only_file_system_is_named_with_the_way_out(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreError) as caught, PackageWriter(small_disk / "tiny"):
        pytest.fail("the block must not run")
    assert str(caught.value) == (
        f"{small_disk / 'tiny'}: cannot write it: the file system is read-only. "
        "Choose another folder, or remount it for writing"
    )


def test_a_folder_without_permission_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "closed" / "tiny"
    target.parent.mkdir()
    if os.geteuid() == 0:  # the superuser may write everywhere, so the refusal itself is put in
        mkdir = Path.mkdir

        def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
            if ".partial-" in self.name:
                raise PermissionError(errno.EACCES, "Permission denied", str(self))
            mkdir(self, *args, **kwargs)

        monkeypatch.setattr(Path, "mkdir", refuse)
    else:
        target.parent.chmod(0o500)
    with pytest.raises(StoreError) as caught, PackageWriter(target):
        pytest.fail("the block must not run")
    assert str(caught.value) == (
        f"{target}: cannot write it: no permission for the folder {target.parent}. "
        "Choose another folder, or give yourself the right to write there"
    )


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_space_that_runs_out_when_the_disk_is_told_to_write_leaves_nothing(
    tmp_path: Path, fields: Fields, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    def steps(writer: PackageWriter) -> None:
        writer.path("model.onnx").write_bytes(b"x")
        monkeypatch.setattr(os, "fsync", full)
        writer.commit(fields())

    with pytest.raises(StoreError, match="Free some space"):
        write(tmp_path / "tiny", steps)
    assert left_in(tmp_path) == []


def test_an_error_about_a_file_that_is_read_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"), PackageWriter(tmp_path / "tiny") as writer:
        writer.copy("model.onnx", tmp_path / "nowhere")
    assert left_in(tmp_path) == []


# --- kills --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_writer_leaves_no_half_package_and_the_next_one_cleans_up(
    tmp_path: Path, fields: Fields, make: Make, point: str
) -> None:
    kill_at(point, tmp_path / "tiny", fields())
    assert not (tmp_path / "tiny").exists()
    assert all(name.startswith(".tiny.partial-") for name in left_in(tmp_path)), left_in(tmp_path)
    assert len(left_in(tmp_path)) == 1
    with pytest.raises(ModelNotFoundError):
        open_package(tmp_path / "tiny")
    open_package(make(tmp_path / "tiny")).verify()
    assert left_in(tmp_path) == ["tiny"]


@pytest.mark.parametrize("point", [*POINTS, "after the swap"])
def test_a_killed_overwrite_leaves_the_old_or_the_new_package_whole(
    tmp_path: Path, fields: Fields, make: Make, point: str
) -> None:
    old = open_package(make(tmp_path / "tiny")).manifest.revision
    kill_at(point, tmp_path / "tiny", fields(), overwrite=True)
    package = open_package(tmp_path / "tiny")
    package.verify()
    assert (package.manifest.revision == old) == (point != "after the swap")
    make(tmp_path / "tiny", overwrite=True)
    assert left_in(tmp_path) == ["tiny"]


def test_a_package_is_there_once_commit_is_done(tmp_path: Path, fields: Fields) -> None:
    kill_at("after commit", tmp_path / "tiny", fields())
    open_package(tmp_path / "tiny").verify()
    assert left_in(tmp_path) == ["tiny"]


def test_the_partial_folder_of_a_living_writer_is_left_alone(
    tmp_path: Path, fields: Fields, make: Make
) -> None:
    with PackageWriter(tmp_path / "tiny") as slow:
        slow.add("model.onnx", b"slow")
        make(tmp_path / "tiny")  # another writer comes and goes
        assert (slow.folder / "model.onnx").exists()
        dead = tmp_path / ".tiny.partial-999999999-0123abcd"
        slow.folder.rename(dead)  # as seen from another container: the process is unknown, the lock is held
        assert fs.remove_stale_partials(tmp_path) == []
        assert dead.exists()
    assert fs.remove_stale_partials(tmp_path) == [dead]


def test_a_file_system_without_locks_is_written_to_and_nothing_is_guessed_there(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")  # what NFS says of a folder

    monkeypatch.setattr("fcntl.flock", no_locks)
    foreign = tmp_path / ".tiny.partial-999999999-0123abcd"  # perhaps of a living writer on another machine
    foreign.mkdir()
    open_package(make(tmp_path / "tiny")).verify()
    assert foreign.exists()


def test_in_a_folder_that_is_not_ours_other_names_are_left_alone(tmp_path: Path, make: Make) -> None:
    foreign = tmp_path / ".other.partial-999999999-0123abcd"
    foreign.mkdir()
    make(tmp_path / "tiny")
    assert foreign.exists()


def test_in_the_models_folder_every_stale_partial_is_removed(models: Path, make: Make) -> None:
    stale = models / ".other.partial-999999999-0123abcd"
    stale.mkdir(parents=True)
    make(models / "tiny")
    assert left_in(models) == [".lock", "tiny"]


# --- overwriting --------------------------------------------------------------------------------------------


def test_a_reader_sees_the_old_or_the_new_package_while_it_is_overwritten(tmp_path: Path, make: Make) -> None:
    make(tmp_path / "tiny", weights=b"0" * 1000)
    done = threading.Event()
    problems: list[str] = []
    seen: set[bytes] = set()

    def read() -> None:
        while not done.is_set():
            try:
                seen.add((open_package(tmp_path / "tiny").path / "model.onnx").read_bytes())
            except Exception as error:  # noqa: BLE001 - whatever a reader meets is what this test is about
                problems.append(repr(error))
                return

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 40):
        make(tmp_path / "tiny", weights=str(number % 10).encode() * (1000 + number), overwrite=True)
    done.set()
    reader.join()
    assert problems == []
    assert all(len(set(content)) == 1 for content in seen)


def test_overwriting_works_on_file_systems_that_cannot_swap(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoRenameat2:
        def __init__(self, *args: object, **kwargs: object) -> None:
            pass

    monkeypatch.setattr(ctypes, "CDLL", NoRenameat2)
    make(tmp_path / "tiny", weights=b"old")
    with pytest.raises(StoreError, match="exists already"):
        make(tmp_path / "tiny", weights=b"new")
    make(tmp_path / "tiny", weights=b"new", overwrite=True)
    assert (tmp_path / "tiny" / "model.onnx").read_bytes() == b"new"
    assert left_in(tmp_path) == ["tiny"]


# --- amending -----------------------------------------------------------------------------------------------


def test_amending_changes_what_is_named_and_keeps_the_rest(tmp_path: Path, make: Make) -> None:
    before = open_package(make(tmp_path / "tiny")).manifest
    figures = {"frames": {"accuracy": 0.9}}
    after = amend(
        tmp_path / "tiny", {"evaluation": figures}, {"MODEL_CARD.md": "# Tiny", "docs/LICENSE": b"MIT"}
    )
    package = open_package(tmp_path / "tiny")
    package.verify()
    assert package.manifest == after
    assert after.evaluation == figures
    assert after.files["model.onnx"] == before.files["model.onnx"]
    assert (tmp_path / "tiny" / "docs" / "LICENSE").read_bytes() == b"MIT"
    assert (tmp_path / "tiny" / "MODEL_CARD.md").read_text() == "# Tiny"
    assert after.revision != before.revision
    assert left_in(tmp_path) == ["tiny"]


def test_amending_a_damaged_package_is_refused(tmp_path: Path, make: Make) -> None:
    make(tmp_path / "tiny")
    (tmp_path / "tiny" / "model.onnx").write_bytes(b"x")
    with pytest.raises(
        IntegrityError, match=r"model\.onnx is not what manifest\.json says; install the package again"
    ):
        amend(tmp_path / "tiny", {"evaluation": {}})
    with pytest.raises(ManifestError, match="evaluaton: is an unknown key; did you mean 'evaluation'"):
        amend(make(tmp_path / "b"), {"evaluaton": {}})
