"""Blocks in alternation, rejection of disturbed ones, medians and paired ratios."""

import pytest

from tools.bench.stats import Block, interleave, measure, paired_ratio, summarise


def block(engine="a", number=0, prompt=100, prefill=1.0, steps=(0.01, 0.02, 0.03), others=0.0, accepted=True):
    return Block(engine, number, prompt, prefill, tuple(steps), others, accepted)


class Machine:
    """Gives each engine a fixed speed and disturbs the calls whose numbers are listed."""

    def __init__(self, disturbed=()):
        self.calls = []
        self.disturbed = set(disturbed)

    def __call__(self, engine, number, prompt):
        others = 0.9 if len(self.calls) in self.disturbed else 0.01
        self.calls.append((engine, number, prompt))
        return block(engine, number, prompt, others=others)


def test_every_engine_is_measured_in_every_round_and_neighbours_change():
    order = list(interleave(["a", "b", "c"], 4))
    for number in range(4):
        assert sorted(name for n, name in order if n == number) == ["a", "b", "c"]
    assert [name for n, name in order if n == 0] == ["a", "b", "c"]
    assert [name for n, name in order if n == 1] == ["c", "b", "a"]


def test_a_disturbed_block_is_kept_as_rejected_and_measured_again():
    machine = Machine(disturbed=[1])
    found = measure(["a", "b"], [8], 1, machine, max_others=0.06)
    assert machine.calls == [("a", 0, 8), ("b", 0, 8), ("b", 0, 8)]
    assert [b.accepted for b in found.of("b", 8)] == [False, True]
    assert summarise(found.of("b", 8)).rejected == 1


def test_attempts_end_and_the_summary_says_that_nothing_was_quiet():
    machine = Machine(disturbed=range(100))
    found = measure(["a"], [8], 2, machine, attempts=3)
    assert len(found.blocks) == 6
    summary = summarise(found.of("a", 8))
    assert summary.disturbed
    assert summary.blocks == 6


def test_without_a_limit_everything_counts():
    found = measure(["a"], [8], 2, Machine(disturbed=range(100)), max_others=None)
    assert len(found.blocks) == 2
    assert all(b.accepted for b in found.blocks)


def test_a_system_that_does_not_say_what_others_use_rejects_nothing():
    found = measure(["a"], [8], 1, lambda e, n, p: block(e, n, p, others=None))
    assert [b.accepted for b in found.blocks] == [True]


@pytest.mark.parametrize(("rounds", "attempts"), [(0, 1), (1, 0)])
def test_no_rounds_or_attempts_is_an_error_with_both_numbers(rounds, attempts):
    with pytest.raises(ValueError, match=rf"rounds \({rounds}\) and attempts \({attempts}\)"):
        measure(["a"], [8], rounds, Machine(), attempts=attempts)


def test_medians_leave_rejected_blocks_and_outliers_out():
    blocks = [
        block(prefill=1.0, steps=[0.01] * 3),
        block(number=1, prefill=2.0, steps=[0.02, 0.02, 5.0]),
        block(number=2, prefill=4.0, steps=[0.04] * 3),
        block(number=2, prefill=99.0, steps=[9.0] * 3, accepted=False),
    ]
    summary = summarise(blocks)
    assert summary.prefill_tps == pytest.approx(100 / 2.0)
    assert summary.ttft_s == 2.0
    assert summary.decode_tps == pytest.approx(1 / 0.02)
    assert (summary.blocks, summary.rejected, summary.disturbed) == (3, 1, False)


def test_blocks_of_two_engines_are_not_summed_up_together():
    with pytest.raises(ValueError, match="one engine at one prompt length"):
        summarise([block("a"), block("b")])


def test_ratios_are_taken_within_rounds():
    """The machine halves its speed from round to round; ours is always twice as fast as the peer."""
    ours = [block("a", n, prefill=1.0 * 2**n, steps=[0.01 * 2**n] * 3) for n in range(5)]
    peer = [block("b", n, prefill=2.0 * 2**n, steps=[0.02 * 2**n] * 3) for n in range(5)]
    assert paired_ratio(ours, peer, "decode") == pytest.approx(2.0)
    assert paired_ratio(ours, peer, "prefill") == pytest.approx(2.0)
    assert paired_ratio(ours[:4], peer[1:], "decode") == pytest.approx(2.0)


def test_ratios_need_a_common_round():
    assert paired_ratio([block("a", 0)], [block("b", 1)], "decode") is None
    with pytest.raises(ValueError, match="'decode' or 'prefill', not 'load'"):
        paired_ratio([block()], [block()], "load")
