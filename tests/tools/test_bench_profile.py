"""Profiles are summed up by kind of operator."""

import pytest

from tools.bench.profile import kind_of, shares, text_of


def event(name, operator, microseconds):
    return {"cat": "Node", "name": name + "_kernel_time", "dur": microseconds, "args": {"op_name": operator}}


def test_kinds_are_told_apart_by_their_place_in_a_layer():
    assert kind_of("/layers/12/mlp/down", "MatMulNBits") == "MatMulNBits mlp.down"
    assert kind_of("/logits", "MatMulNBits") == "MatMulNBits logits"
    assert kind_of("/tail/exp", "Exp") == "evidence"
    assert kind_of("/lse", "Add") == "evidence"
    assert kind_of("/layers/0/mlp/act", "QuickGelu") == "QuickGelu"


def test_each_operator_counts_with_its_tenth_percentile_and_kinds_are_added_up():
    events = [event("/layers/0/mlp/down", "MatMulNBits", 1000)]  # the prefill before the counted passes
    events += [event("/layers/0/mlp/down", "MatMulNBits", d) for d in [10] * 9 + [900]]
    events += [event("/layers/1/mlp/down", "MatMulNBits", 20) for _ in range(11)]
    events += [event("/final_norm", "Norm", 1) for _ in range(11)]
    events += [{"cat": "Session", "name": "model_run", "dur": 5}]
    first, second = shares(events, passes=10)
    assert (first.kind, first.nodes) == ("MatMulNBits mlp.down", 2)
    assert first.seconds == pytest.approx(30e-6)
    assert second.seconds == pytest.approx(1e-6)


def test_small_kinds_are_shown_together():
    found = shares([event("/a", "A", 1000), event("/b", "B", 1), event("/c", "C", 1)], passes=1)
    lines = text_of("step", found).splitlines()
    assert lines[0] == "### step: 1.00 ms"
    assert lines[4] == "| A | 1 | 1000.0 | 99.8% |"
    assert lines[5] == "| all others | 2 | 1.0 | 0.2% |"
