"""The ONNX Runtime engines keep the contract of engines; what is theirs alone is tested here."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_contract import PROMPT, EngineContract
from support import make_package

from edge_runtime.engines.onnx import FusedGraph, OnnxEngine
from edge_runtime.engines.onnx_generic import GenericOnnxEngine, score_rows
from edge_runtime.engines.session import create_session
from edge_runtime.engines.tuning import SessionTuning
from edge_runtime.errors import EngineError
from model_zoo import open_package

WHOLE = {"version": 1, "layers": 2, "kv_heads": 2, "head_dim": 8, "topk": 8}
SMALL = SessionTuning(threads=1, spin=False, prefill_chunk=16, kv_step=16)


def open_fused(package: Path, tuning: SessionTuning = SMALL) -> OnnxEngine:
    manifest = open_package(package).manifest
    return OnnxEngine.open(
        package / "model.onnx",
        model_id=manifest.id,
        vocab_size=manifest.vocab_size,
        context_length=manifest.context_length,
        options=manifest.engine_options,
        tuning=tuning,
    )


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packages")
    return {scheme: make_package(folder / scheme, scheme=scheme) for scheme in ("fp32", "int4", "int8")}


@pytest.fixture(scope="module")
def engines(packages: dict[str, Path]) -> dict[str, OnnxEngine]:
    return {scheme: open_fused(package) for scheme, package in packages.items()}


class TestFusedFloat(EngineContract):
    @pytest.fixture
    def engine(self, engines: dict[str, OnnxEngine]) -> OnnxEngine:
        return engines["fp32"]


class TestFusedInt4(EngineContract):
    # activations are rounded to 8 bits: the last float bit of an earlier layer can move one by a step
    tolerance = 0.05

    @pytest.fixture
    def engine(self, engines: dict[str, OnnxEngine]) -> OnnxEngine:
        return engines["int4"]


class TestFusedInt8(TestFusedInt4):
    @pytest.fixture
    def engine(self, engines: dict[str, OnnxEngine]) -> OnnxEngine:
        return engines["int8"]


# --- a generic graph, one attention layer, as optimum names things ------------------------------------------


def generic_graph(
    path: Path, *, vocab: int = 120, dim: int = 16, positions: bool = True, keep: str = "logits"
) -> Path:
    import onnx
    from onnx import TensorProto, helper

    random = np.random.default_rng(0)
    weights: dict[str, Any] = {
        "table": random.normal(0, 1, (vocab, dim)).astype(np.float32),
        "head": random.normal(0, 0.4, (dim, vocab)).astype(np.float32),
        "places": random.normal(0, 0.5, (64, dim)).astype(np.float32),
        "one": np.array([1], np.int64), "zero": np.array([0], np.int64), "axis1": np.array(1, np.int64),
        "low": np.array(-1e9, np.float32), "first": np.array(0, np.int64), "second": np.array(2, np.int64),
    }  # fmt: skip
    n = helper.make_node
    ints, floats = TensorProto.INT64, TensorProto.FLOAT
    nodes = [
        n("Gather", ["table", "input_ids"], ["tokens"]),
        n("Shape", ["attention_mask"], ["mask_shape"]),
        n("Gather", ["mask_shape", "axis1"], ["total"]),
        n("Shape", ["past_key_values.0.key"], ["past_shape"]),
        n("Gather", ["past_shape", "second"], ["past"]),
    ]
    if positions:
        nodes += [n("Gather", ["places", "position_ids"], ["placed"]), n("Add", ["tokens", "placed"], ["x"])]
    else:
        nodes += [n("Identity", ["tokens"], ["x"])]
    nodes += [
        n("Unsqueeze", ["x", "one"], ["x4"]),
        n("Concat", ["past_key_values.0.key", "x4"], ["present.0.key"], axis=2),
        n("Concat", ["past_key_values.0.value", "x4"], ["present.0.value"], axis=2),
        n("Transpose", ["present.0.key"], ["keys"], perm=[0, 1, 3, 2]),
        n("MatMul", ["x4", "keys"], ["scores"]),
        n("Shape", ["scores"], ["score_shape"]),
        n("ConstantOfShape", ["score_shape"], ["ones"], value=helper.make_tensor("v", floats, [1], [1.0])),
        n("Trilu", ["ones", "past"], ["visible"], upper=0),
        n("Cast", ["visible"], ["seen"], to=TensorProto.BOOL),
        n("Where", ["seen", "scores", "low"], ["masked"]),
        n("Softmax", ["masked"], ["shares"], axis=-1),
        n("MatMul", ["shares", "present.0.value"], ["mixed"]),
        n("Squeeze", ["mixed", "one"], ["flat"]),
        n("MatMul", ["flat", "head"], ["logits"]),
    ]  # fmt: skip
    kv = ["batch", 1, "past", dim]
    inputs = [helper.make_tensor_value_info("input_ids", ints, ["batch", "s"])]
    inputs += [helper.make_tensor_value_info("attention_mask", ints, ["batch", "t"])]
    if positions:
        inputs += [helper.make_tensor_value_info("position_ids", ints, ["batch", "s"])]
    inputs += [
        helper.make_tensor_value_info(f"past_key_values.0.{part}", floats, kv) for part in ("key", "value")
    ]
    outputs = [helper.make_tensor_value_info(keep, floats, None)]
    if keep == "logits":
        outputs += [
            helper.make_tensor_value_info(f"present.0.{part}", floats, None) for part in ("key", "value")
        ]
    values = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "generic", inputs, outputs, values)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def open_generic(path: Path) -> GenericOnnxEngine:
    return GenericOnnxEngine.open(
        path,
        model_id="generic",
        vocab_size=120,
        context_length=64,
        options={"graph": "generic"},
        tuning=SMALL,
    )


@pytest.fixture(scope="module", params=[True, False], ids=["positions", "no-positions"])
def generic(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GenericOnnxEngine:
    path = tmp_path_factory.mktemp("generic") / "model.onnx"
    return open_generic(generic_graph(path, positions=request.param))


class TestGeneric(EngineContract):
    @pytest.fixture
    def engine(self, generic: GenericOnnxEngine) -> GenericOnnxEngine:
        return generic


def test_a_generic_graph_without_a_kv_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"not the output present\.0\.key: export it with the KV cache"):
        open_generic(generic_graph(tmp_path / "model.onnx", keep="flat"))


# --- what the fused engine promises alone -------------------------------------------------------------------


def test_memory_follows_use(packages: dict[str, Path]) -> None:
    sequence = open_fused(packages["fp32"]).new_sequence()
    sizes = []
    for _ in range(5):
        sequence.forward(PROMPT)
        sizes.append(sequence.nbytes)
    per_token = 2 * 2 * 2 * 16 * 4  # layers, key and value, heads, head size, bytes
    assert sizes == [capacity * per_token for capacity in (16, 32, 64, 64, 64)]


def test_growing_keeps_what_is_cached(packages: dict[str, Path]) -> None:
    engine = open_fused(packages["fp32"])
    grown, roomy = (
        engine.new_sequence(),
        open_fused(packages["fp32"], SessionTuning(threads=1)).new_sequence(),
    )
    for at in range(60):
        left, right = grown.forward([3 + at]), roomy.forward([3 + at])
        np.testing.assert_allclose(left.topk_logits, right.topk_logits, atol=1e-5)


def test_the_room_never_exceeds_the_context(packages: dict[str, Path]) -> None:
    engine = open_fused(packages["fp32"], SessionTuning(threads=1, kv_step=1000))
    sequence = engine.new_sequence()
    sequence.forward(PROMPT)
    assert sequence.nbytes == engine.info.context_length * 2 * 2 * 2 * 16 * 4


def test_no_memory_for_the_cache_is_an_error_and_leaves_an_empty_sequence(
    packages: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sequence = open_fused(packages["fp32"]).new_sequence()
    sequence.forward(PROMPT)

    def full(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as patched:
        patched.setattr("edge_runtime.engines.onnx.mmap.mmap", full)
        with pytest.raises(EngineError, match="no memory for the KV cache of 32 tokens"):
            sequence.forward(PROMPT)
    assert sequence.length == 0
    sequence.forward(PROMPT)


def test_small_arrays_of_scores_belong_to_the_caller(packages: dict[str, Path]) -> None:
    sequence = open_fused(packages["fp32"]).new_sequence()
    first = sequence.forward([5])
    kept = first.topk_logits.copy()
    sequence.forward([6])
    np.testing.assert_array_equal(first.topk_logits, kept)


def test_threads_may_share_an_engine(packages: dict[str, Path]) -> None:
    engine = open_fused(packages["fp32"])
    texts = [[3 + 7 * seed + step for step in range(20)] for seed in range(4)]

    def run(text: list[int]) -> list[float]:
        sequence = engine.new_sequence()
        return [float(sequence.forward([token]).lse[0]) for token in text]

    expected = [run(text) for text in texts]
    results: dict[int, list[float]] = {}
    threads = [threading.Thread(target=lambda i=i: results.update({i: run(texts[i])})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, values in enumerate(expected):
        np.testing.assert_allclose(results[i], values, atol=1e-5)


def test_a_closed_engine_says_so(packages: dict[str, Path]) -> None:
    engine = open_fused(packages["fp32"])
    engine.close()
    with pytest.raises(EngineError, match="the engine of model 'tiny' has been closed"):
        engine.new_sequence().forward([5])


def test_a_missing_or_damaged_graph_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"model\.onnx is missing: verify the package"):
        create_session(tmp_path / "model.onnx", SMALL)
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(EngineError, match=r"onnxruntime .* cannot load .*model\.onnx"):
        create_session(tmp_path / "model.onnx", SMALL)


def test_a_graph_without_the_evidence_is_refused(tmp_path: Path) -> None:
    session = create_session(generic_graph(tmp_path / "model.onnx"), SMALL)
    with pytest.raises(EngineError, match=r"lacks .*entropy.*: quantize the model again"):
        OnnxEngine(
            session, FusedGraph(((2, 16),), "float32", 8), open_generic(tmp_path / "model.onnx").info, SMALL
        )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"version": 2}, "has version 2, this release runs version 1"),
        ({**WHOLE, "head_dim": None}, "incomplete or wrong: TypeError"),
        ({"version": 1, "topk": 8, "layers": 2}, "incomplete or wrong: KeyError"),
        ({**WHOLE, "kv_dtype": "bfloat16"}, "'bfloat16' is not supported"),
        ({**WHOLE, "topk": 1}, "topk is 1"),
    ],
)
def test_options_that_cannot_be_run_are_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(EngineError, match=told):
        FusedGraph.from_options(options)


def test_layers_may_differ_in_shape() -> None:
    graph = FusedGraph.from_options({"version": 1, "topk": 4, "kv_shapes": [[1, 8], [2, 4]]})
    assert graph.kv_shapes == ((1, 8), (2, 4))


def test_scores_of_rows_agree_with_the_definition() -> None:
    rows = np.random.default_rng(0).normal(0, 5, (3, 30)).astype(np.float32)
    scores = score_rows(rows, 4)
    shares = np.exp(rows) / np.exp(rows).sum(1, keepdims=True)
    np.testing.assert_allclose(scores.lse, np.log(np.exp(rows).sum(1)), rtol=1e-5)
    np.testing.assert_allclose(scores.entropy, -(shares * np.log(shares)).sum(1), rtol=1e-4)
    np.testing.assert_array_equal(scores.topk_ids, np.argsort(-rows, axis=1)[:, :4])
