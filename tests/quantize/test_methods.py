"""Better-than-nearest quantization: never worse than rounding, and in exactly the format the kernels read."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime import ort
from quantize import methods
from quantize.errors import SchemeError


def dequantize(codes, scales, bits, columns):
    """The naive reading of the format: (code - zero point) * scale, padding cut off; float64 [n, columns]."""
    values = (codes.astype(np.float64) - (1 << (bits - 1))) * scales.astype(np.float64)[..., None]
    return values.reshape(codes.shape[0], -1)[:, :columns]


def weighted_error(weights, codes, scales, bits, importance=None):
    """Σ importance · (w − ŵ)² per block, float64 [n, blocks]; a naive reference."""
    columns, block = weights.shape[1], codes.shape[2]
    error = (weights.astype(np.float64) - dequantize(codes, scales, bits, columns)) ** 2
    error *= 1.0 if importance is None else importance
    padded = np.pad(error, ((0, 0), (0, codes.shape[1] * block - columns)))
    return padded.reshape(codes.shape).sum(axis=-1)


def sample(seed, rows, columns, tail):
    """Weights with the given tail: columns of very different sizes, a few outliers."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_t(tail, size=(rows, columns)) * np.exp(rng.normal(size=columns))
    return weights.astype(np.float32), np.exp(2 * rng.normal(size=columns)).astype(np.float32)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block_size", [16, 32, 128])
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), columns=st.integers(1, 300), tail=st.integers(1, 30), weigh=st.booleans()
)
def test_search_is_never_worse_than_nearest_in_any_block(bits, block_size, seed, columns, tail, weigh):
    weights, importance = sample(seed, 3, columns, tail)
    nearest = methods.rtn(weights, bits, block_size)
    searched = methods.search(weights, bits, block_size, importance if weigh else None)
    # The importance that counts carries the floor that keeps unseen channels alive.
    floor = importance / importance.mean() + 1e-4 if weigh else None
    before = weighted_error(weights, *nearest, bits, floor)
    after = weighted_error(weights, *searched, bits, floor)
    scale = (nearest[1].astype(np.float64) ** 2) * block_size * (1.0 if floor is None else floor.max())
    assert (after <= before * (1 + 1e-4) + 1e-6 * scale).all()


@pytest.mark.parametrize("block_size", [32, 64, 128])
def test_search_lowers_the_squared_error_of_bell_shaped_weights_by_a_tenth(block_size):
    weights = np.random.default_rng(7).standard_normal((64, 1024)).astype(np.float32)
    nearest = weighted_error(weights, *methods.rtn(weights, 4, block_size), 4).sum()
    searched = weighted_error(weights, *methods.search(weights, 4, block_size), 4).sum()
    assert searched < 0.92 * nearest


def test_search_spends_its_accuracy_where_the_importance_is():
    weights, importance = sample(11, 32, 512, 5)
    plain = methods.search(weights, 4, 64)
    weighed = methods.search(weights, 4, 64, importance)
    assert (
        weighted_error(weights, *weighed, 4, importance).sum()
        < 0.8 * weighted_error(weights, *plain, 4, importance).sum()
    )


def test_rows_are_independent_so_slices_give_the_same_result_as_the_whole():
    weights, importance = sample(3, 50, 320, 4)
    for name, block_size in product(methods.DATA_FREE, (32, 512)):
        method = methods.METHODS[name]
        codes, scales = method(weights, 4, block_size, importance)
        for step in (1, 7):
            parts = [method(weights[a : a + step], 4, block_size, importance) for a in range(0, 50, step)]
            np.testing.assert_array_equal(codes, np.concatenate([p[0] for p in parts]))
            np.testing.assert_array_equal(scales, np.concatenate([p[1] for p in parts]))


def test_one_thread_and_many_give_the_same_result():
    weights, _ = sample(4, 3000, 256, 4)
    one, many = (methods.search(weights, 4, 32, threads=n) for n in (1, 5))
    np.testing.assert_array_equal(one[0], many[0])
    np.testing.assert_array_equal(one[1], many[1])


@pytest.mark.parametrize("name", methods.DATA_FREE)
@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_of_zeros_denormals_and_giants_stay_finite(name, bits):
    weights = np.zeros((4, 64), np.float32)
    weights[1, ::3] = 1e-42
    weights[2, :32] = np.linspace(-3e38, 3e38, 32)
    weights[3, 5] = -1e-30
    codes, scales = methods.METHODS[name](weights, bits, 32)
    assert np.isfinite(scales).all()
    restored = dequantize(codes, scales, bits, 64)
    assert (restored[0] == 0).all()
    assert (codes[0] == 1 << (bits - 1)).all()
    assert (scales[0] == 0).all()
    assert np.abs(restored[1]).max() < 1e-30
    np.testing.assert_allclose(restored[2], weights[2], atol=3e38 / (1 << (bits - 1)))
    assert restored[3, 5] == pytest.approx(-1e-30, rel=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", methods.DATA_FREE)
def test_weights_that_are_not_finite_are_refused(name, bad):
    weights = np.ones((8, 64), np.float32)
    weights[5, 40] = bad
    with pytest.raises(SchemeError, match="NaN or infinite"):
        methods.METHODS[name](weights, 4, 32)


def test_settings_that_cannot_be_carried_out_name_the_value():
    weights = np.ones((2, 64), np.float32)
    with pytest.raises(SchemeError, match="3 bits cannot be quantized; choose one of 4, 8"):
        methods.search(weights, 3, 32)
    for size in (8, 48):
        with pytest.raises(SchemeError, match=f"block size {size} is not a power of two of at least 16"):
            methods.search(weights, 4, size)
    with pytest.raises(SchemeError, match=r"importance of shape \[63\] does not fit 64 input channels"):
        methods.search(weights, 4, 32, np.ones(63, np.float32))
    with pytest.raises(SchemeError, match="importance has negative or non-finite entries"):
        methods.search(weights, 4, 32, np.full(64, np.nan, np.float32))


@pytest.mark.parametrize("name", methods.CALIBRATED)
def test_a_calibrated_method_called_bare_says_what_it_needs(name):
    with pytest.raises(SchemeError, match=f"method '{name}' needs activations .*calibrated_quantizer"):
        methods.METHODS[name](np.ones((2, 64), np.float32), 4, 32)


def test_an_importance_of_zeros_counts_every_channel_alike():
    weights, _ = sample(5, 4, 128, 5)
    codes, scales = methods.search(weights, 4, 32, np.zeros(128, np.float32))
    plain = methods.search(weights, 4, 32)
    np.testing.assert_array_equal(codes, plain[0])
    np.testing.assert_allclose(scales, plain[1], rtol=1e-5)


# --- covariance ---


def correlated_inputs(seed, samples, channels):
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((channels, channels)) / np.sqrt(channels) + 0.5 * np.eye(channels)
    inputs = rng.standard_normal((samples, channels)) @ mixing * np.exp(rng.normal(size=channels))
    return inputs.astype(np.float32)


def test_the_triangle_gives_back_the_damped_covariance():
    inputs = correlated_inputs(0, 400, 48)
    covariance = inputs.T @ inputs
    triangle = methods.factorize(covariance, damping=0.02)
    lower = (triangle.carry + np.eye(48)) * np.sqrt(triangle.weight)[:, None]
    damped = covariance + 0.02 * np.diag(covariance).mean() * np.eye(48)
    np.testing.assert_allclose(lower.T @ lower, damped, rtol=1e-3, atol=1e-3 * np.abs(damped).max())


@pytest.mark.parametrize("block_size", [16, 64])
@pytest.mark.parametrize("channels", [128, 100])
def test_gptq_lowers_the_error_of_the_layers_output_below_every_other_method(block_size, channels):
    inputs = correlated_inputs(1, 1000, channels)
    weights = np.random.default_rng(2).standard_normal((40, channels)).astype(np.float32)
    covariance = inputs.T @ inputs

    def output_error(codes, scales):
        error = weights - dequantize(codes, scales, 4, channels)
        return float(((inputs @ error.T) ** 2).sum())

    repaired = output_error(*methods.gptq(weights, 4, block_size, methods.factorize(covariance)))
    weighed = output_error(*methods.search(weights, 4, block_size, np.diag(covariance) / 1000))
    assert repaired < 0.8 * weighed
    assert weighed < output_error(*methods.rtn(weights, 4, block_size))


def test_gptq_without_correlations_is_the_weighted_search():
    weights, importance = sample(6, 12, 96, 5)
    triangle = methods.factorize(np.diag(importance), damping=1e-4)
    codes, _ = methods.gptq(weights, 4, 32, triangle)
    searched, _ = methods.search(weights, 4, 32, importance)
    assert (codes == searched).mean() > 0.98


def test_gptq_survives_channels_that_never_fired():
    inputs = correlated_inputs(3, 300, 64)
    inputs[:, 10:20] = 0
    weights = np.random.default_rng(4).standard_normal((8, 64)).astype(np.float32)
    codes, scales = methods.gptq(weights, 4, 32, methods.factorize(inputs.T @ inputs))
    assert np.isfinite(scales).all()
    assert np.abs(dequantize(codes, scales, 4, 64) - weights).max() < 2.0
    silent = methods.gptq(weights, 4, 32, methods.factorize(np.zeros((64, 64))))
    assert np.isfinite(silent[1]).all()


def test_covariances_that_do_not_fit_are_refused():
    with pytest.raises(SchemeError, match=r"a covariance of shape \[3, 4\] is not square"):
        methods.factorize(np.ones((3, 4)))
    with pytest.raises(SchemeError, match="covariance is not finite"):
        methods.factorize(np.full((4, 4), np.nan))
    with pytest.raises(SchemeError, match="a covariance of 4 channels does not fit 64 input channels"):
        methods.gptq(np.ones((2, 64), np.float32), 4, 32, methods.factorize(np.eye(4)))


# --- the kernels ---


def pack(codes, bits):
    """Two 4-bit codes in a byte, the even one in the low half: [n, blocks, block_size * bits / 8]."""
    return codes if bits == 8 else codes[..., 0::2] | (codes[..., 1::2] << 4)


@pytest.mark.parametrize("name", [*methods.DATA_FREE, "gptq"])
@pytest.mark.parametrize("bits", [4, 8])
def test_matmulnbits_reads_the_codes_as_the_reference_does(name, bits):
    from onnx import TensorProto, helper, numpy_helper

    weights, _ = sample(9, 24, 128, 6)
    inputs = correlated_inputs(5, 64, 128)
    if name == "gptq":
        codes, scales = methods.gptq(weights, bits, 32, methods.factorize(inputs.T @ inputs))
    else:
        codes, scales = methods.METHODS[name](weights, bits, 32)
    node = helper.make_node(
        "MatMulNBits", ["x", "q", "s"], ["y"], domain="com.microsoft", K=128, N=24, bits=bits, block_size=32
    )
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 128])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 24])],
        [numpy_helper.from_array(pack(codes, bits), "q"), numpy_helper.from_array(scales, "s")],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = ort.load().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": inputs})
    expected = inputs @ dequantize(codes, scales, bits, 128).T
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
