"""What pruning removes, and above all what it does not: packages in use, the configured one, fresh ones."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from model_zoo import ModelNotFoundError, StoreError, last_used, open_package, pack, store, usage
from model_zoo import files as fs
from model_zoo.prune import Pruned, duration, prune

Make = Callable[..., Path]

ROOT = Path(__file__).resolve().parents[2]
DAY = 86_400.0
NOW = 2_000_000_000.0


def pruned(**options: object) -> Pruned:
    return prune(**{"clock": lambda: NOW, **options})  # type: ignore[arg-type]


def names(result: Pruned) -> list[tuple[str, str]]:
    return [(item.kind, item.path.name) for item in result.removed]


def aged(folder: Path, installed_days: float, used_days: float | None = None) -> Path:
    """Set when a package was installed and last used, in days before NOW."""
    at = NOW - installed_days * DAY
    os.utime(folder / "manifest.json", (at, at))
    if used_days is not None:
        usage.mark_used(folder, lambda: NOW - used_days * DAY)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edge-runtime" / "unpacked"


# --- last use -----------------------------------------------------------------------------------------------


def test_opening_to_run_is_remembered_and_looking_is_not(models: Path, make: Make) -> None:
    folder = make(models / "tiny")
    open_package("tiny")
    assert last_used(folder) is None
    open_package("tiny", in_use=True, clock=lambda: NOW)
    assert last_used(folder) == NOW
    open_package("tiny", in_use=True, clock=lambda: NOW + 5)
    assert last_used(folder) == NOW + 5


def test_the_last_use_of_a_shipped_package_is_remembered_outside_of_the_installation(
    models: Path, tmp_path: Path, make: Make, home: Path
) -> None:
    folder = make(tmp_path / "shipped" / "pocket")
    before = sorted(folder.parent.rglob("*"))
    open_package("pocket", in_use=True, clock=lambda: NOW)
    assert last_used(folder) is None  # nothing is written into a HOME that has nothing of ours
    assert list(home.iterdir()) == []
    (home / ".local" / "state" / "edge-runtime").mkdir(parents=True)
    open_package("pocket", in_use=True, clock=lambda: NOW)
    assert last_used(folder) == NOW
    assert sorted(folder.parent.rglob("*")) == before
    assert not models.exists()
    assert (home / ".local" / "state" / "edge-runtime" / "used-shipped" / "pocket").is_file()


def test_a_package_elsewhere_leaves_no_trace(models: Path, tmp_path: Path, make: Make, home: Path) -> None:
    folder = make(tmp_path / "elsewhere" / "tiny")
    open_package(folder, in_use=True)
    assert last_used(folder) is None
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    assert list(home.iterdir()) == []


def test_a_disk_that_cannot_be_written_does_not_keep_a_model_from_running(
    models: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*args: object, **options: object) -> None:
        raise OSError(30, "Read-only file system")

    folder = make(models / "tiny")
    monkeypatch.setattr(Path, "touch", read_only)
    assert open_package("tiny", in_use=True).manifest.id == "tiny"
    assert last_used(folder) is None


def test_removing_a_package_forgets_its_use(models: Path, make: Make) -> None:
    folder = make(models / "tiny")
    open_package("tiny", in_use=True)
    store.remove("tiny")
    make(models / "tiny")
    assert last_used(folder) is None


# --- left-overs ---------------------------------------------------------------------------------------------


def test_what_killed_writers_left_goes_and_what_lives_stays(models: Path, make: Make, cache: Path) -> None:
    make(models / "tiny")
    dead = models / ".other.partial-999999999-0123abcd"
    dead.mkdir()
    (dead / "model.onnx").write_bytes(bytes(1000))
    alive = models / f".mine.partial-{os.getpid()}-0123abcd"
    alive.mkdir()
    result = pruned()
    assert [(item.kind, item.path, item.size) for item in result.removed] == [("partial", dead, 1000)]
    assert result.size == 1000
    assert not dead.exists()
    assert alive.exists()
    assert open_package("tiny").path.is_dir()


def test_unfinished_downloads_go_unless_a_process_works_on_them(models: Path, cache: Path) -> None:
    for name in ("left", "held", "whole"):
        (models / ".downloads" / name).mkdir(parents=True)
        (models / ".downloads" / name / "model.safetensors.edge-runtime-partial").write_bytes(bytes(10))
    lease = usage.lease(models / ".downloads" / "whole")
    assert lease is not None
    with (models / ".downloads" / "held" / "model.safetensors.edge-runtime-partial").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as a download holds the file that it writes
        result = pruned()
    assert names(result) == [("download", "left")]
    assert [(item.path.name, item.why) for item in result.kept] == [
        ("held", "in use by a running process"),
        ("whole", "in use by a running process"),
    ]
    lease.close()
    assert names(pruned()) == [("download", "held"), ("download", "whole")]


def test_unpacked_edge_files_go_and_come_back_when_they_are_opened(
    models: Path, tmp_path: Path, make: Make, cache: Path
) -> None:
    path = pack(make(tmp_path / "tiny"), tmp_path / "tiny.edge")
    opened = open_package(path, in_use=True)
    assert last_used(opened.path) is not None
    assert [item.why for item in pruned().kept] == ["in use by a running process"]
    assert opened.lease is not None
    opened.lease.close()
    assert names(pruned()) == [("unpacked", opened.path.name)]
    assert not opened.path.exists()
    assert open_package(path).path == opened.path


def test_what_a_killed_prune_left_of_a_download_goes_as_well(models: Path, cache: Path) -> None:
    dead = models / ".downloads" / ".tiny.partial-999999999-0123abcd"
    dead.mkdir(parents=True)
    assert names(pruned()) == [("partial", dead.name)]


def test_a_pull_holds_its_download_and_one_after_pruning_begins_anew(models: Path, cache: Path) -> None:
    from model_zoo.pulling import Place, claimed

    work = models / ".downloads" / "tiny"
    with claimed(work, Place(models=models)):
        assert [item.why for item in pruned().kept] == ["in use by a running process"]
        (work / "part").write_bytes(b"kept")
    work.mkdir()
    assert names(pruned()) == [("download", "tiny")]
    with claimed(work, Place(models=models)):
        assert work.is_dir()


def test_a_dry_run_says_the_same_and_touches_nothing(models: Path, make: Make, cache: Path) -> None:
    aged(make(models / "old"), 100)
    (models / ".downloads" / "left").mkdir(parents=True)
    (models / ".x.partial-999999999-0123abcd").mkdir()
    before = sorted(models.rglob("*"))
    dry = pruned(unused_for_s=30 * DAY, dry_run=True)
    assert sorted(models.rglob("*")) == before
    assert pruned(unused_for_s=30 * DAY) == dry
    assert names(dry) == [
        ("partial", ".x.partial-999999999-0123abcd"),
        ("download", "left"),
        ("package", "old"),
    ]


def test_an_empty_machine_has_nothing_to_prune(models: Path, cache: Path) -> None:
    assert pruned(unused_for_s=0) == Pruned((), ())
    assert not models.exists()
    assert not cache.exists()


# --- packages -----------------------------------------------------------------------------------------------


def test_no_package_goes_unless_an_age_is_named(models: Path, make: Make, cache: Path) -> None:
    aged(make(models / "old"), 1000)
    assert pruned() == Pruned((), ())
    assert (models / "old").is_dir()


def test_packages_go_by_their_last_use_and_new_ones_are_not_unused(
    models: Path, make: Make, cache: Path
) -> None:
    aged(make(models / "new"), 1)
    aged(make(models / "idle"), 90, used_days=40)
    aged(make(models / "lively"), 90, used_days=3)
    aged(make(models / "never"), 90)
    result = pruned(unused_for_s=30 * DAY)
    assert [(item.path.name, item.why) for item in result.removed] == [
        ("idle", "unused for 40 days"),
        ("never", "never used in 90 days"),
    ]
    assert [entry.name for entry in store.list_packages()] == ["lively", "new"]


def test_two_ages_must_both_hold(models: Path, make: Make, cache: Path) -> None:
    aged(make(models / "old-idle"), 90, used_days=40)
    aged(make(models / "old-lively"), 90, used_days=1)
    aged(make(models / "young-idle"), 35, used_days=34)
    result = pruned(unused_for_s=30 * DAY, older_than_s=60 * DAY)
    assert [(item.path.name, item.why) for item in result.removed] == [
        ("old-idle", "unused for 40 days, installed 90 days ago")
    ]
    assert names(pruned(older_than_s=60 * DAY)) == [("package", "old-lively")]


def test_the_configured_model_stays(models: Path, make: Make, cache: Path) -> None:
    folder = aged(make(models / "mine"), 90)
    result = pruned(unused_for_s=DAY, keep=[folder])
    assert result.removed == ()
    assert [(item.path, item.why) for item in result.kept] == [(folder, "it is the configured model")]


def test_a_broken_folder_is_not_taken_for_a_package(models: Path, cache: Path) -> None:
    (models / "notes").mkdir(parents=True)
    (models / "notes" / "mine.txt").write_text("keep me")
    assert pruned(unused_for_s=0).removed == ()
    assert (models / "notes" / "mine.txt").is_file()


def test_a_package_used_in_the_last_instant_stays(
    models: Path, make: Make, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = aged(make(models / "tiny"), 90)
    locked = store.fs.locked

    def used_meanwhile(path: Path) -> object:
        usage.mark_used(folder, lambda: NOW)
        return locked(path)

    monkeypatch.setattr("model_zoo.prune.fs.locked", used_meanwhile)
    assert pruned(unused_for_s=DAY) == Pruned((), ())
    assert folder.is_dir()


RUN = """
import sys
from model_zoo import open_package
package = open_package(sys.argv[1], in_use=True, clock=lambda: 0)
print("open", flush=True)
sys.stdin.readline()
"""


def test_a_package_that_another_process_runs_stays_until_that_process_is_gone(
    models: Path, make: Make, cache: Path
) -> None:
    folder = aged(make(models / "tiny"), 90)
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, "tiny"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    result = pruned(unused_for_s=DAY)
    assert [(item.path, item.why) for item in result.kept] == [(folder, "in use by a running process")]
    assert folder.is_dir()
    process.kill()  # however it ends
    process.communicate(timeout=60)
    assert names(pruned(unused_for_s=DAY)) == [("package", "tiny")]


def test_a_folder_that_cannot_be_written_is_said(
    models: Path, make: Make, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    aged(make(models / "tiny"), 90)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StoreError, match=r"tiny: cannot remove it: no permission for the folder .*models"):
        pruned(unused_for_s=DAY)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "less than a minute"), (60, "1 minute"), (7199, "1 hour"), (7200, "2 hours"), (3 * DAY, "3 days")],
)
def test_durations_are_told_in_their_largest_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# --- several processes at once ------------------------------------------------------------------------------

INSTALL = """
import sys
sys.path.insert(0, "tests/model_zoo")
from pathlib import Path
from conftest import manifest_fields
from model_zoo import PackageWriter, models_dir
print("ready", flush=True)
sys.stdin.readline()
for round in range(6):
    for name in sys.argv[1:]:
        with PackageWriter(models_dir() / name, overwrite=True) as writer:
            writer.add("model.onnx", bytes([round]) * 3000)
            writer.commit(manifest_fields(id=name, parameters=round))
print("done")
"""

LIST = """
import json, sys
from model_zoo import ModelNotFoundError, list_packages, open_package
print("ready", flush=True)
sys.stdin.readline()
problems, opened = [], 0
for _ in range(25):
    for entry in list_packages():
        if entry.problem is not None:
            problems.append(entry.problem)
            continue
        try:
            open_package(entry.name, in_use=True)  # the files are new, so every byte is hashed
            opened += 1
        except ModelNotFoundError:
            pass
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")
print(json.dumps([problems, opened]))
"""

REMOVE = """
import sys
from model_zoo import ModelNotFoundError, remove
print("ready", flush=True)
sys.stdin.readline()
for _ in range(30):
    for name in sys.argv[1:]:
        try:
            remove(name)
        except ModelNotFoundError:
            pass
print("done")
"""

PRUNE = """
import sys
from model_zoo.prune import prune
print("ready", flush=True)
sys.stdin.readline()
count = 0
for _ in range(30):
    count += len(prune(unused_for_s=0).removed)
print("done")
"""


def test_processes_that_install_list_remove_and_prune_at_once_do_not_break_one_another(
    models: Path, cache: Path
) -> None:
    packages = ["a", "b", "c"]
    scripts = {"install": INSTALL, "list": LIST, "remove": REMOVE, "prune": PRUNE}
    running = {
        name: subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script, *packages],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, script in scripts.items()
    }
    for process in running.values():
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running.values():
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = {name: process.communicate(timeout=120) for name, process in running.items()}
    assert {name: process.returncode for name, process in running.items()} == dict.fromkeys(running, 0), said
    problems, _ = json.loads(said["list"][0])
    assert problems == []
    for entry in store.list_packages():
        open_package(entry.name).verify()
    left = {path.name for path in models.iterdir()}
    assert left <= {*packages, ".lock", ".verified", ".used"}, "nothing half-made or half-removed is left"


USE = """
import sys, time
sys.path.insert(0, "tests/model_zoo")
from conftest import manifest_fields
from model_zoo import ModelNotFoundError, PackageWriter, models_dir, open_package
print("ready", flush=True)
sys.stdin.readline()
held = lost = 0
while held < 8:
    with PackageWriter(models_dir() / "tiny", overwrite=True) as writer:
        writer.add("model.onnx", bytes(3000))
        writer.commit(manifest_fields(id="tiny"))
    try:
        package = open_package("tiny", in_use=True)
    except ModelNotFoundError:
        continue  # pruned before it was opened
    if package.lease is not None:
        held += 1
        time.sleep(0.02)
        lost += not package.file("model.onnx").is_file()
        package.lease.close()
print(lost)
"""


def test_what_was_opened_to_be_used_is_never_pruned_however_often_that_is_tried(
    models: Path, cache: Path
) -> None:
    user = subprocess.Popen(
        [sys.executable, "-c", USE], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert user.stdout is not None
    assert user.stdin is not None
    assert user.stdout.readline() == "ready\n"
    user.stdin.write("go\n")
    user.stdin.flush()
    in_use = 0
    while user.poll() is None:
        in_use += len(prune(unused_for_s=0).kept)
    assert user.stdout.read() == "0\n"
    assert in_use > 0, "it was tried while the package was in use"
    user.communicate()


def test_a_lease_is_on_the_folder_that_has_the_name(
    models: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(models / "tiny")
    lock, swaps = fcntl.flock, iter([True, False])

    def swapped_meanwhile(descriptor: int, operation: int) -> None:
        if next(swaps, False):
            folder.rename(models / "aside")
            make(models / "other").rename(folder)
        lock(descriptor, operation)

    monkeypatch.setattr("model_zoo.usage.fcntl.flock", swapped_meanwhile)
    held = usage.lease(folder)
    monkeypatch.undo()
    assert held is not None
    assert fs.lock_folder(folder) is None, "held"
    free = fs.lock_folder(models / "aside")
    assert free is not None
    os.close(free)


KILLED = """
import os, sys
from pathlib import Path
from model_zoo import store
store.put_aside(Path(sys.argv[1]))
os._exit(9)
"""


def test_what_a_killed_removal_left_goes_with_the_next_one(models: Path, make: Make, cache: Path) -> None:
    folder = make(models / "tiny")
    assert subprocess.run([sys.executable, "-c", KILLED, folder], cwd=ROOT, timeout=60).returncode == 9
    assert store.list_packages() == []
    (left,) = [path for path in models.iterdir() if "partial" in path.name]
    assert [(item.kind, item.path) for item in pruned().removed] == [("partial", left)]


def test_a_disk_without_locks_can_be_written_and_is_not_pruned(
    models: Path, make: Make, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    aged(make(models / "tiny"), 90)
    assert open_package("tiny", in_use=True).lease is None
    aged(models / "tiny", 90, used_days=80)
    assert [item.path.name for item in pruned(unused_for_s=DAY).kept] == ["tiny"]
    store.remove("tiny")
    assert store.list_packages() == []


def test_a_package_removed_between_looking_and_reading_is_said_to_be_gone(
    models: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(models / "tiny")
    monkeypatch.setattr("model_zoo.package._locate", lambda name: folder)
    store.remove("tiny")
    with pytest.raises(ModelNotFoundError, match="tiny: was removed by another process meanwhile"):
        open_package("tiny")
