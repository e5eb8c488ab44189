"""Schemes and the packed form of weights."""

from __future__ import annotations

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize import SCHEMES, Scheme, SchemeError, dequantize, quantize_block
from quantize.schemes import fitting_block, pack, unpack

BITS = st.sampled_from([4, 8])
BLOCKS = st.sampled_from([16, 32, 64, 128])
WEIGHTS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 200)),
    elements=st.floats(-1e4, 1e4, width=32),
)


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 3), st.just(32))), BITS)
def test_unpacking_gives_back_what_was_packed(codes: np.ndarray, bits: int) -> None:
    codes = codes & np.uint8((1 << bits) - 1)
    packed = pack(codes, bits)
    assert packed.shape == (*codes.shape[:-1], 32 * bits // 8)
    np.testing.assert_array_equal(unpack(packed, bits), codes)


def test_the_even_element_lies_in_the_low_half_byte() -> None:
    np.testing.assert_array_equal(pack(np.array([[[1, 2, 15, 0]]], np.uint8), 4), [[[0x21, 0x0F]]])


@given(WEIGHTS, BITS, BLOCKS)
def test_rounding_loses_half_a_step_at_most_and_a_whole_one_where_the_range_ends(
    weights: np.ndarray, bits: int, block: int
) -> None:
    """Codes reach from −2^(b−1) to 2^(b−1) − 1: only the end of the shorter side is clipped, by one step."""
    packed, scales = quantize_block(weights, bits, block)
    rows, columns = weights.shape
    count = -(-columns // block)
    assert packed.shape == (rows, count, block * bits // 8)
    assert scales.shape == (rows, count)
    step = np.repeat(np.abs(scales), block, axis=1)[:, :columns]
    error = np.abs(dequantize(packed, scales, bits, columns) - weights)
    codes = unpack(packed, bits).reshape(rows, -1)[:, :columns]
    clipped = codes == (1 << bits) - 1
    bound = np.where(clipped, step, step / 2) * np.float32(1 + 1e-5) + np.float32(1e-30)
    assert (error <= bound).all()


def test_zeros_stay_zeros() -> None:
    packed, scales = quantize_block(np.zeros((2, 40), np.float32), 4, 32)
    np.testing.assert_array_equal(dequantize(packed, scales, 4, 40), np.zeros((2, 40)))


def test_padding_of_the_last_block_stands_for_zero() -> None:
    packed, scales = quantize_block(np.ones((1, 20), np.float32), 4, 32)
    np.testing.assert_array_equal(dequantize(packed, scales, 4)[:, 20:], np.zeros((1, 12)))


@given(st.integers(1, 5000), BLOCKS)
def test_the_fitting_block_divides_the_row_or_is_the_one_asked_for(columns: int, block: int) -> None:
    fitting = fitting_block(columns, block)
    if columns % 16 == 0:
        assert columns % fitting == 0
        assert fitting == block or columns % (2 * fitting) != 0
    else:
        assert fitting == block


@pytest.mark.parametrize(
    ("columns", "block", "padded"),
    [(576, 128, 128), (576, 256, 64), (960, 128, 128), (896, 128, 128), (64, 128, 64)],
)
def test_padding_keeps_the_block_where_it_adds_an_eighth_at_most(
    columns: int, block: int, padded: int
) -> None:
    assert fitting_block(columns, block, pad=True) == padded


def test_named_schemes_are_sound_and_can_be_changed() -> None:
    for name, scheme in SCHEMES.items():
        assert Scheme.named(name) == scheme
    changed = Scheme.named("int4", block_size=128, head_bits=4, accuracy_level=None)
    assert (changed.block_size, changed.head_bits, changed.accuracy_level) == (128, 4, 4)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("int3", {}, r"no scheme 'int3'; there are int4, int8, fp16, fp32"),
        (
            "int4",
            {"block": 64},
            r"a scheme has no field 'block' to change; it has accuracy_level, block_size",
        ),
        ("int4", {"block_size": 48}, r"block_size is 48; it must be a power of two from 16 to 256"),
        ("int4", {"block_size": 8}, r"block_size is 8"),
        ("int4", {"head_block_size": 512}, r"head_block_size is 512"),
        ("fp32", {"head_bits": 8}, r"head_block_size is 0"),
        ("int4", {"head_bits": 6}, r"head_bits is 6; it can be 4, 8, 16, 32"),
        ("int4", {"method": "magic"}, r"no quantization method 'magic'; there are rtn, "),
        ("int4", {"accuracy_level": 3}, r"accuracy_level is 3; it can be 4 \(int8 arithmetic\), 1 or 0"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(name: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        Scheme.named(name, **changes)


def test_unknown_methods_and_bits_are_refused() -> None:
    with pytest.raises(SchemeError, match="no quantization method 'magic'"):
        quantize_block(np.zeros((1, 16), np.float32), 4, 16, "magic")
    for function in (pack, unpack):
        with pytest.raises(SchemeError, match="3 bits cannot be"):
            function(np.zeros((1, 16), np.uint8), 3)
