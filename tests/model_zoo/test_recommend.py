"""Recommending: the sums add up, what fits comes first, more memory never fits less."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.cli import cli
from edge_runtime.cli.models_recommend import SIZE
from model_zoo.boards import BOARDS, board_named, usual_memory
from model_zoo.errors import UnknownBoardError
from model_zoo.recommend import MIN_SPEED, TIGHT, Candidate, Resources, recommend, suited_boards
from model_zoo.registry import RegistryEntry, shipped_registry
from model_zoo.registry_file import parse_registry

OWN = shipped_registry().entries()
GB = 10**9


def entry(name: str, weights: int, **fields: str) -> RegistryEntry:
    """A model of `weights` bytes at int4 and twice as many at int8; 1000 bytes of KV per token, 50 of
    runtime."""
    lines = {
        "name": f'"{name}"',
        "repository": '"acme/m"',
        "revision": '"main"',
        "licence": '"MIT"',
        "parameters": str(2 * weights),
        "context": "8192",
        **fields,
    }
    text = 'format = 1\nname = "acme"\n[[model]]\n' + "".join(f"{k} = {v}\n" for k, v in lines.items())
    for scheme, times in (("int4", 1), ("int8", 2)):
        size = times * weights
        text += (
            f"[model.schemes.{scheme}]\npackage_bytes = {size + 7}\nweights_bytes = {size}\n"
            "kv_bytes_per_token = 1000\nruntime_bytes = 50\n"
        )
    return parse_registry(text.encode(), "r.toml")[1][0]


def one(memory: int, weights: int = 1_000_000, **fields: Any) -> Candidate:
    options = {key: fields.pop(key) for key in ("context", "scheme", "min_speed") if key in fields}
    disk, bandwidth = fields.pop("disk", None), fields.pop("bandwidth", None)
    (found,) = recommend([entry("m", weights, **fields)], Resources(memory, disk, bandwidth), **options)
    return found


# --- sums ---


def test_memory_is_weights_plus_cache_plus_runtime() -> None:
    found = one(10**7, context=100, scheme="int4")
    assert (found.weights, found.kv, found.runtime) == (1_000_000, 100_000, 50)
    assert found.memory == 1_100_050
    assert found.spare_memory == 10**7 - 1_100_050
    assert found.to_json()["memory_bytes"] == 1_100_050


def test_disk_is_the_checkpoint_and_the_package() -> None:
    found = one(10**8, scheme="int4", disk=5_000_006)
    assert (found.download, found.disk) == (4_000_000, 4_000_000 + 1_000_007)
    assert (found.spare_disk, found.verdict) == (-1, "disk")
    assert one(10**8, scheme="int4", disk=5_000_007).verdict == "fits"


def test_the_speed_is_bounded_by_what_a_token_reads() -> None:
    found = one(10**8, scheme="int4", context=1000, bandwidth=2e7)
    assert found.max_speed == 2e7 / (1_000_000 + 1_000_000)
    assert found.verdict == "fits"
    assert one(10**8, scheme="int4", context=1000, bandwidth=1.9e7).verdict == "slow"
    assert one(10**8, scheme="int4", context=1000, bandwidth=1.9e7, min_speed=5).verdict == "fits"
    assert MIN_SPEED == 10


def test_the_verdicts_meet_at_the_byte() -> None:
    needed = 1_000_000 + 50
    assert one(needed + 1000 - 1, scheme="int4", context=1).verdict == "memory"
    assert one(needed + 1000, scheme="int4", context=1).verdict == "tight"
    assert one(int((needed + 1000) / (1 - TIGHT)) + 1, scheme="int4", context=1).verdict == "fits"


def test_a_context_that_the_package_does_not_have_is_no_fit() -> None:
    assert one(10**9, context=8192).verdict == "fits"
    assert one(10**9, context=8193).verdict == "context"
    assert one(10**9, context=4097, package_context="4096").verdict == "context"


def test_a_package_that_is_made_here_can_have_the_whole_context_and_longer_tables() -> None:
    phi = shipped_registry().resolve("phi4-mini")
    assert (phi.package_context, phi.context) == (4096, 131072)
    (usual,) = recommend([phi], Resources(64 * GB), context=4096, scheme="int4")
    (longer,) = recommend([phi], Resources(64 * GB), context=8192, scheme="int4")
    (all_of_it,) = recommend([phi], Resources(64 * GB), context=131072)
    (more,) = recommend([phi], Resources(64 * GB), context=131073)
    assert (usual.longer, longer.longer) == (False, True)
    assert longer.weights > usual.weights
    assert (all_of_it.verdict, more.verdict) == ("fits", "context")


def test_without_a_wanted_context_a_short_model_is_reckoned_with_what_it_has() -> None:
    assert one(10**9).context == 2048
    assert one(10**9, package_context="512").context == 512


def test_eight_bits_are_taken_where_they_leave_half_of_the_memory() -> None:
    int8 = 2_000_000 + 2_048_000 + 50
    assert one(2 * int8).scheme == "int8"
    assert one(2 * int8 - 1).scheme == "int4"
    assert one(2 * int8, scheme="int4").scheme == "int4"
    assert one(2 * int8, bandwidth=3.5e7).scheme == "int4"  # 8 bits would be slow


# --- order ---


def test_larger_models_come_first_gated_ones_after_and_what_does_not_fit_last() -> None:
    entries = [
        entry("small", 10),
        entry("gated", 1000, gated="true"),
        entry("large", 100),
        entry("huge", 10**9),
        entry("vast", 10**10),
    ]
    found = recommend(entries, Resources(10**8))
    assert [c.entry.name for c in found] == ["large", "small", "gated", "huge", "vast"]
    assert [c.verdict for c in found] == ["fits", "fits", "fits", "memory", "memory"]


resources = st.builds(
    Resources,
    st.integers(0, 64 * GB),
    st.none() | st.integers(0, 64 * GB),
    st.none() | st.floats(1e6, 1e12),
)


@settings(deadline=None)
@given(resources, st.none() | st.integers(1, 200_000))
def test_the_sums_of_every_candidate_add_up(given_: Resources, context: int | None) -> None:
    found = recommend(OWN, given_, context=context)
    assert {c.entry.id for c in found} == {e.id for e in OWN}
    for c in found:
        assert c.memory == c.footprint.memory.total(c.context) == given_.memory - c.spare_memory
        assert (c.verdict in ("fits", "tight", "slow")) <= (c.spare_memory >= 0)
        assert (c.spare_disk is None) == (given_.disk is None)


@settings(deadline=None)
@given(resources, st.integers(0, 32 * GB))
def test_more_memory_never_fits_less(given_: Resources, more: int) -> None:
    def fitting(offered: Resources) -> set[str]:
        return {c.entry.id for c in recommend(OWN, offered) if c.verdict == "fits"}

    larger = Resources(given_.memory + more, given_.disk, given_.bandwidth)
    assert fitting(given_) <= fitting(larger)


@settings(deadline=None)
@given(resources, st.integers(1, 100_000), st.integers(0, 30_000))
def test_more_context_never_fits_more(given_: Resources, context: int, more: int) -> None:
    def fitting(tokens: int) -> set[str]:
        return {c.entry.id for c in recommend(OWN, given_, context=tokens) if c.verdict == "fits"}

    assert fitting(context + more) <= fitting(context)


# --- boards ---


@pytest.mark.parametrize("board", BOARDS.values(), ids=lambda board: board.name)
def test_a_board_is_named_alone_or_with_its_memory(board: Any) -> None:
    assert board_named(board.name) == (board, board.memory_gib[0])
    for size, variant in zip(board.memory_gib, board.variants, strict=True):
        assert board_named(variant.upper()) == (board, size)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pi5-3gb", "pi5-3gb: no board of that name; did you mean pi5-"),
        ("orin", "did you mean orin-nano-4gb or orin-nano-8gb or orin-nx-8gb or orin-nx-16gb?"),
        ("beagle", "beagle: no board of that name; there are pi-zero-2, pi3, "),
    ],
)
def test_an_unknown_board_is_told_with_the_nearest(name: str, said: str) -> None:
    with pytest.raises(UnknownBoardError) as error:
        board_named(name)
    assert said in str(error.value)


def test_the_usual_memory_is_less_than_what_is_sold_and_never_negative() -> None:
    assert usual_memory(0.1) == 0
    assert 0.25 < usual_memory(0.5) / (1 << 30) < 0.35
    assert 6.5 < usual_memory(8) / (1 << 30) < 7


def test_a_model_that_suits_a_board_suits_those_of_its_kind_with_more_memory() -> None:
    for model in OWN:
        suited = suited_boards(model)
        for board in BOARDS.values():
            names = [name in suited for name in board.variants]
            assert names == sorted(names), (model.id, board.name)


# --- the verb ---

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("EDGE_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def invoke(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(cli, ["models", "recommend", *words])
        assert done.exit_code == code, done.output
        return done.output

    return invoke


def test_the_verb_shows_the_sum_and_the_command_that_pulls(run: Run) -> None:
    said = run("--board", "pi5-8gb", "--context", "4096")
    assert "Raspberry Pi 5 with 8 GB" in said
    assert "weights + KV cache of 4,096 tokens + runtime" in said
    (row,) = [line for line in said.splitlines() if line.startswith("qwen2.5:1.5b")]
    _, scheme, weights, kv, runtime, memory, *_ = row.replace(",", "").split()
    assert scheme in ("int4", "int8")
    assert abs(int(weights) + int(kv) + int(runtime) - int(memory)) <= 2  # rounded to MiB
    assert int(kv) == 28 * 2 * 2 * 128 * 4 * 4096 // 2**20
    assert "Recommended: " in said
    assert "\n  edge-runtime models pull " in said


def test_the_verb_looks_at_this_device_by_default(run: Run) -> None:
    found = json.loads(run("--json"))
    assert found["memory_bytes"] == found["device"]["memory_available"]
    assert found["disk_bytes"] == found["device"]["disk_free"]
    assert len(found["candidates"]) == len(OWN)
    chosen = next(c for c in found["candidates"] if c["id"] == found["recommended"])
    assert chosen["verdict"] == "fits"
    assert found["command"] == f"edge-runtime models pull {chosen['id']} --scheme {found['scheme']}"


def test_a_longer_context_than_usual_is_in_the_command(run: Run) -> None:
    found = json.loads(run("--board", "agx-orin-64gb", "--context", "50000", "--json"))
    assert found["command"].endswith(" --context 50000")
    assert "no: 512 tokens of context" in run("--board", "agx-orin-64gb", "--context", "50000")


def test_where_no_chat_model_fits_the_shipped_one_is_named(run: Run) -> None:
    said = run("--memory", "200MiB")
    assert "No chat model fits with room to spare." in said
    assert "edge-runtime run --model pocket" in said
    assert json.loads(run("--memory", "200MiB", "--json"))["recommended"] is None


def test_what_is_missing_is_told_in_numbers(run: Run) -> None:
    said = run("--memory", "100MiB", "--all")
    assert " short" in said
    assert len([line for line in said.splitlines() if " no: " in line]) == len(OWN)
    assert "(10 more that do not fit: --all lists them)" in run("--memory", "100MiB")


def test_a_gated_model_is_named_and_not_recommended(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "acme.toml"
    fields = 'name = "vast"\nrepository = "a/b"\nrevision = "main"\nlicence = "Own"\ngated = true\n'
    sizes = "{ package_bytes = 1, weights_bytes = 1, kv_bytes_per_token = 1, runtime_bytes = 1 }"
    place.write_text(
        f'format = 1\nname = "acme"\n[[model]]\n{fields}parameters = 9000000000\ncontext = 9999\n'
        f"schemes.int4 = {sizes}\n"
    )
    config = tmp_path / "config" / "edge-runtime" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[model]\nregistries = ["../../acme.toml"]\n')
    said = run("--board", "orin-nano-8gb")
    assert "but their licence has to be accepted first: vast" in said
    assert "acme.toml: not signed; who made it cannot be told" in said


def test_the_variable_names_registries_too_and_wins(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_MODELS_REGISTRIES", f"'{tmp_path}/not there.toml'")
    done = run(code=4)
    assert "not there.toml: the registry cannot be read: No such file or directory" in done
    monkeypatch.setenv("EDGE_MODELS_REGISTRIES", "'open")
    assert "EDGE_MODELS_REGISTRIES cannot be read: No closing quotation" in run(code=3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--scheme", "int2"], "'int2' is none of int4, int8, fp16, fp32."),
        (["--memory", "much"], "'much' is not a size; write one such as 4GB, 512MiB or 1.5GiB."),
    ],
)
def test_a_wrong_flag_is_told_with_what_it_can_be(run: Run, words: list[str], said: str) -> None:
    assert said in run(*words, code=2)


def test_an_unknown_board_ends_as_a_model_error(run: Run) -> None:
    assert "pi6: no board of that name; did you mean pi3?" in run("--board", "pi6", code=4)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4GB", 4 * GB),
        ("512MiB", 512 << 20),
        ("1.5g", 1_500_000_000),
        ("2 GiB", 2 << 30),
        ("77", 77),
        ("1k", 1000),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, count: int) -> None:
    assert SIZE.convert(text, None, None) == count
