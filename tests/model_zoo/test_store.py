"""Where packages are found, how a misspelt name is helped, and that two processes can work at once."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from model_zoo import (
    ModelNotFoundError,
    StoreError,
    find,
    list_packages,
    models_dir,
    open_package,
    remove,
    store,
)

Make = Callable[..., Path]

ROOT = Path(__file__).resolve().parents[2]


def test_the_models_folder_is_the_one_that_is_named_or_the_xdg_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert models_dir({}) == home / ".local" / "share" / "edge-runtime" / "models"
    monkeypatch.setenv("XDG_DATA_HOME", "/srv/data")
    assert models_dir() == Path("/srv/data/edge-runtime/models")
    assert models_dir({"EDGE_MODELS_DIR": "/srv/models/../m"}) == Path("/srv/m")
    assert models_dir({"EDGE_MODELS_DIR": "~/m"}) == home / "m"
    assert models_dir({"EDGE_MODELS_DIR": ""}) == Path("/srv/data/edge-runtime/models")
    assert list(home.iterdir()) == [], "asking creates nothing"


def test_shipped_packages_are_part_of_the_installation() -> None:
    import model_zoo

    assert model_zoo.shipped_dir() == Path(model_zoo.__file__).parent / "packages"


def test_the_list_is_sorted_and_an_installed_package_hides_a_shipped_one(
    models: Path, tmp_path: Path, make: Make
) -> None:
    assert list_packages() == []
    make(tmp_path / "shipped" / "pocket")
    make(tmp_path / "shipped" / "alpha")
    make(models / "pocket", parameters=7)
    (models / ".hidden").mkdir()
    (models / "file").write_bytes(b"")
    entries = list_packages()
    assert [(entry.name, entry.shipped) for entry in entries] == [("alpha", True), ("pocket", False)]
    assert entries[1].manifest is not None
    assert entries[1].manifest.parameters == 7
    assert entries[1].path == models / "pocket"
    assert open_package("pocket").path == models / "pocket"
    assert open_package("alpha").path == tmp_path / "shipped" / "alpha"


def test_a_package_that_cannot_be_read_is_listed_with_its_problem(models: Path, make: Make) -> None:
    (models / "empty").mkdir(parents=True)
    (make(models / "newer") / "manifest.json").write_text('{"format": 2}')
    empty, newer = list_packages()
    assert empty.manifest is newer.manifest is None
    assert "is not a model package: it has no manifest.json" in (empty.problem or "")
    assert "format is 2 but this release reads formats up to 1" in (newer.problem or "")


def test_a_tagged_name_is_found_by_its_id_and_by_its_folder(models: Path, make: Make) -> None:
    folder = make(models / store.folder_name("smollm2:135m"), id="smollm2:135m")
    assert folder.name == "smollm2-135m"
    assert find("smollm2:135m") == find("smollm2-135m") == folder
    moved = models / "my-own-name"
    folder.rename(moved)
    assert find("smollm2:135m") == moved


@pytest.mark.parametrize("wrong", ["poket", "pocket2", "pockte"])
def test_a_misspelt_name_suggests_the_nearest(models: Path, make: Make, wrong: str) -> None:
    make(models / "pocket")
    make(models / "smollm2-135m")
    with pytest.raises(ModelNotFoundError) as caught:
        open_package(wrong)
    assert str(caught.value) == (
        f"{wrong}: no model of that name in {models} or among the shipped ones; did you mean 'pocket'?"
    )


def test_a_name_near_to_none_lists_what_there_is(models: Path, make: Make) -> None:
    with pytest.raises(
        ModelNotFoundError, match="there is no model yet; make one with: edge-runtime quantize SRC OUT"
    ):
        find("zzz")
    make(models / "pocket")
    make(models / "tiny")
    with pytest.raises(ModelNotFoundError, match=r"there are pocket, tiny\."):
        find("zzz")


@pytest.mark.parametrize("name", ["", ".", "..", "../shipped/own", "/etc", ".lock", "a\0b"])
def test_a_name_cannot_leave_the_models_folder(models: Path, tmp_path: Path, make: Make, name: str) -> None:
    make(tmp_path / "shipped" / "own")
    make(models / "tiny")
    with pytest.raises(ModelNotFoundError):
        find(name)
    with pytest.raises(ModelNotFoundError):
        remove(name)
    assert (models / "tiny").is_dir()


# --- removing -----------------------------------------------------------------------------------------------


def test_removing_takes_the_package_and_its_stamp(models: Path, make: Make) -> None:
    make(models / "tiny")
    open_package("tiny", clock=lambda: 4e9)
    assert (models / ".verified" / "tiny.json").exists()
    assert remove("tiny") == models / "tiny"
    assert not (models / "tiny").exists()
    assert list((models / ".verified").iterdir()) == []
    with pytest.raises(ModelNotFoundError):
        remove("tiny")


def test_a_shipped_package_is_not_removed(models: Path, tmp_path: Path, make: Make) -> None:
    make(tmp_path / "shipped" / "pocket")
    with pytest.raises(StoreError) as caught:
        remove("pocket")
    assert str(caught.value) == (
        "pocket: is shipped with the program and cannot be removed alone; "
        "it goes with: pip uninstall edge-runtime"
    )
    make(models / "pocket")
    remove("pocket")
    assert find("pocket") == tmp_path / "shipped" / "pocket", "the shipped one shows again"


def test_a_broken_package_can_be_removed(models: Path, make: Make) -> None:
    (models / "empty").mkdir(parents=True)
    (make(models / "newer") / "manifest.json").write_text('{"format": 2}')
    remove("empty")
    remove("newer")
    assert list_packages() == []


def test_removing_a_link_leaves_what_it_points_to(models: Path, tmp_path: Path, make: Make) -> None:
    make(tmp_path / "elsewhere")
    models.mkdir()
    (models / "linked").symlink_to(tmp_path / "elsewhere")
    assert find("linked") == models / "linked"
    remove("linked")
    open_package(tmp_path / "elsewhere").verify()
    assert list_packages() == []


def test_a_folder_that_cannot_be_written_is_said(
    models: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    make(models / "tiny")
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StoreError, match=r"tiny: cannot remove it: no permission for the folder .*models"):
        remove("tiny")


REMOVE = """
import sys
from model_zoo import ModelNotFoundError, remove
print("ready", flush=True)
sys.stdin.readline()
removed = 0
for name in sys.argv[1:]:
    try:
        remove(name)
        removed += 1
    except ModelNotFoundError:
        pass
print(removed)
"""


def test_two_processes_that_remove_at_once_remove_each_package_once(models: Path, make: Make) -> None:
    names = [f"m{number}" for number in range(12)]
    for name in names:
        make(models / name)
    command = [sys.executable, "-c", REMOVE]
    both = [
        subprocess.Popen(
            [*command, *order], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for order in (names, names[::-1])
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    removed = [int(out) for out, _ in [process.communicate("go\n", timeout=60) for process in both]]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(removed) == len(names)
    assert list_packages() == []
    assert list(models.iterdir()) == [models / ".lock"]
