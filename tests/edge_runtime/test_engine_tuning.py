"""Session settings: chosen for the machine, overridable, and checked."""

from pathlib import Path

import pytest

from edge_runtime.engines.tuning import Machine, SessionTuning
from edge_runtime.errors import EngineError


def fake_sys(
    root: Path, *, siblings: list[str], capacities: list[int] | None = None, quota: str | None = None
) -> Path:
    for cpu, group in enumerate(siblings):
        folder = root / f"devices/system/cpu/cpu{cpu}"
        (folder / "topology").mkdir(parents=True)
        (folder / "topology/thread_siblings_list").write_text(group + "\n")
        if capacities is not None:
            (folder / "cpu_capacity").write_text(f"{capacities[cpu]}\n")
    if quota is not None:
        (root / "fs/cgroup").mkdir(parents=True)
        (root / "fs/cgroup/cpu.max").write_text(quota)
    return root


def test_hyper_threads_of_one_core_count_once(tmp_path: Path) -> None:
    machine = Machine.probe(fake_sys(tmp_path, siblings=["0,2", "1,3", "0,2", "1,3"]), {0, 1, 2, 3})
    assert machine == Machine(cores=2, logical=4)
    assert SessionTuning.for_machine(machine).threads == 2


def test_small_cores_get_no_thread(tmp_path: Path) -> None:
    siblings, capacities = [str(i) for i in range(8)], [290, 290, 290, 290, 1000, 1000, 1024, 1024]
    machine = Machine.probe(fake_sys(tmp_path, siblings=siblings, capacities=capacities), set(range(8)))
    assert machine.cores == 4


def test_a_container_quota_bounds_the_threads(tmp_path: Path) -> None:
    root = fake_sys(tmp_path, siblings=["0", "1", "2", "3"], quota="150000 100000\n")
    machine = Machine.probe(root, {0, 1, 2, 3})
    assert machine.quota == 1.5
    assert SessionTuning.for_machine(machine).threads == 2
    (root / "fs/cgroup/cpu.max").write_text("max 100000\n")
    assert Machine.probe(root, {0, 1, 2, 3}).quota is None


def test_a_machine_that_tells_nothing_has_its_logical_cpus(tmp_path: Path) -> None:
    assert Machine.probe(tmp_path, {0, 1, 2}) == Machine(cores=3, logical=3)


def test_two_hyper_threads_of_a_single_core_are_used() -> None:
    assert SessionTuning.for_machine(Machine(cores=1, logical=2)).threads == 2


def test_one_thread_does_not_spin() -> None:
    assert SessionTuning.for_machine(Machine(cores=1, logical=1)) == SessionTuning(threads=1, spin=False)


def test_arguments_win_over_the_environment_which_wins_over_the_machine() -> None:
    environ = {"EDGE_ENGINE_THREADS": "3", "EDGE_ENGINE_SPIN": "off", "EDGE_ENGINE_PREFILL_CHUNK": ""}
    tuning = SessionTuning.choose({"threads": 5, "arena": None}, environ=environ, machine=Machine(2, 2))
    assert (tuning.threads, tuning.spin, tuning.arena, tuning.prefill_chunk) == (5, False, True, 256)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"thread": 2}, "unknown engine option 'thread'; known ones: .*threads"),
        ({"threads": 0}, "threads=0 is out of range: it must be 1 or more"),
        ({"threads": "many"}, "threads='many' is not a whole number"),
        ({"spin": "maybe"}, "spin='maybe' is not a truth value"),
        ({"spin_us": -1}, "spin_us=-1 is out of range"),
        ({"kv_step": 1}, "kv_step=1 is out of range: it must be 16 or more"),
    ],
)
def test_a_wrong_option_is_named_with_its_value(given: dict[str, object], told: str) -> None:
    with pytest.raises(EngineError, match=told):
        SessionTuning.choose(given, environ={}, machine=Machine(2, 2))
