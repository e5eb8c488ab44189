"""Quantizing a graph that was made elsewhere: the same result as its weights rounded beforehand."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime import ort
from quantize import Scheme, dequantize, quantize_block
from quantize.generic_graph import quantize_generic

VOCABULARY, HIDDEN = 96, 64


def a_graph(path, table, inner, head, shared=False):
    """ids → table → inner → head, in the shape that optimum writes."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("MatMul", ["x", "inner"], ["y"]),
        helper.make_node("MatMul", ["y", "head"], ["logits"]),
        helper.make_node("MatMul", ["y", "tiny"], ["small"]),
    ]
    if shared:
        nodes.append(helper.make_node("Identity", ["table"], ["again"]))
    values = {"table": table, "inner": inner.T, "head": head.T, "tiny": np.ones((HIDDEN, 2), np.float32)}
    outputs = [("logits", ["n", VOCABULARY]), ("small", ["n", 2])]
    outputs += [("again", [VOCABULARY, HIDDEN])] if shared else []
    graph = helper.make_graph(
        nodes,
        "generic",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in outputs],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save_model(
        model, str(path), save_as_external_data=True, location=path.name + "_data", size_threshold=0
    )


def run(path, ids):
    session = ort.load().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"ids": ids})[0]


def rounded(weights, bits, block):
    return dequantize(*quantize_block(weights, bits, block, "search"), bits)


@pytest.fixture
def weights():
    rng = np.random.default_rng(0)
    shapes = {"table": (VOCABULARY, HIDDEN), "inner": (HIDDEN, HIDDEN), "head": (VOCABULARY, HIDDEN)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", ["int4", "int8"])
def test_every_matrix_is_replaced_by_its_codes(tmp_path, weights, name):
    path, ids = tmp_path / "model.onnx", np.arange(40)
    a_graph(path, **weights)
    scheme = Scheme.named(name, block_size=32, head_block_size=64, method="search", accuracy_level=1)
    assert quantize_generic(path, scheme, VOCABULARY) == 3
    table, head = (rounded(weights[key], 8, 64) for key in ("table", "head"))
    inner = rounded(weights["inner"], scheme.bits, 32)
    np.testing.assert_allclose(run(path, ids), table[ids] @ inner.T @ head.T, rtol=1e-3, atol=1e-3)
    model = onnx.load(str(path))
    assert [node.op_type for node in model.graph.node] == [
        "GatherBlockQuantized",
        "MatMulNBits",
        "MatMulNBits",
        "MatMul",
    ]
    assert {"table", "inner", "head"}.isdisjoint(tensor.name for tensor in model.graph.initializer)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]


def test_a_table_that_something_else_reads_stays_float(tmp_path, weights):
    path = tmp_path / "model.onnx"
    a_graph(path, **weights, shared=True)
    assert quantize_generic(path, Scheme.named("int8"), VOCABULARY) == 2
    assert onnx.load(str(path)).graph.node[0].op_type == "Gather"


def test_a_float_head_stays_float(tmp_path, weights):
    path, ids = tmp_path / "model.onnx", np.arange(10)
    a_graph(path, **weights)
    assert quantize_generic(path, Scheme.named("int8", head_bits=32), VOCABULARY) == 1
    exact = weights["table"][ids] @ weights["inner"].T @ weights["head"].T
    error = np.abs(run(path, ids) - exact).max() / np.abs(exact).max()
    assert 0 < error < 0.05
