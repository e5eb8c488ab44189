"""Calibrated quantization: the activations are the model's own, memory is bounded, and it pays."""

import numpy as np
import pytest

from edge_runtime.model import LoadedModel
from edge_runtime.tokenizer import Tokenizer
from quantize import Scheme, quantize_checkpoint
from quantize.calibration import Activations, calibrated_quantizer, sample_rows
from quantize.checkpoint import Checkpoint
from quantize.errors import SchemeError
from quantize.export import describe_checkpoint
from quantize.report import compare
from tests.support import CORPUS, ScriptedEngine, make_checkpoint

Q0 = "model.layers.0.self_attn.q_proj.weight"
GATE0, UP1 = "model.layers.0.mlp.gate_proj.weight", "model.layers.1.mlp.up_proj.weight"
DOWN1 = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("calibration") / "checkpoint")


@pytest.fixture(scope="module")
def rows(source):
    encode = Tokenizer.from_file(source / "tokenizer.json").encode
    return [encode(text) for text in CORPUS * 3]


@pytest.fixture(scope="module")
def int8(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("int8") / "package"
    quantize_checkpoint(source, out, scheme=Scheme.named("int8", block_size=32, head_block_size=32))
    return out / "model.onnx"


def activations(source, int8, rows, **options):
    return Activations(int8, describe_checkpoint(source)[0], rows, **{"whole": False, **options})


def test_the_first_layers_inputs_are_the_normed_embeddings(source, int8, rows):
    found = activations(source, int8, rows).moment(Q0)
    with Checkpoint.open(source) as checkpoint:
        table = checkpoint.rows("model.embed_tokens.weight")
        norm = checkpoint.rows("model.layers.0.input_layernorm.weight")
        epsilon = checkpoint.config["rms_norm_eps"]
    hidden = table[[token for row in rows for token in row]].astype(np.float64)
    normed = hidden / np.sqrt((hidden**2).mean(axis=-1, keepdims=True) + epsilon) * norm
    np.testing.assert_allclose(found, (normed**2).mean(axis=0), rtol=0.05, atol=0.02)


def test_the_diagonal_of_the_covariance_is_the_mean_square(source, int8, rows):
    squares = activations(source, int8, rows)
    whole = activations(source, int8, rows, whole=True)
    for tensor in (Q0, GATE0, UP1, DOWN1):
        covariance = whole.moment(tensor)
        np.testing.assert_allclose(np.diag(covariance), squares.moment(tensor), rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(covariance, covariance.T, rtol=1e-4, atol=1e-5)


def test_less_memory_means_more_passes_and_the_same_result(source, int8, rows):
    roomy = activations(source, int8, rows, whole=True)
    tight = activations(source, int8, rows, whole=True, memory_bytes=1)
    assert roomy.passes == 1
    assert tight.passes == 8  # four activations feed the matrices of each of the two layers
    for tensor in (Q0, GATE0, UP1, DOWN1):
        np.testing.assert_array_equal(tight.moment(tensor), roomy.moment(tensor))
        assert len(tight._moments) == 1


def test_tensors_that_share_an_input_share_their_moments(source, int8, rows):
    known = activations(source, int8, rows)
    assert known.key(UP1) == known.key(UP1.replace("up", "gate"))
    assert known.key(Q0) == known.key(Q0.replace("q_proj", "v_proj"))
    assert known.key(Q0) != known.key(GATE0)
    assert "model.embed_tokens.weight" not in known


def test_calibration_lowers_the_divergence_and_leaves_no_files(source, rows, tmp_path):
    reference = tmp_path / "float32"
    quantize_checkpoint(source, reference, scheme=Scheme.named("fp32"))
    engine = LoadedModel.open(reference).engine
    kl = {}
    for method in ("rtn", "weighted", "gptq"):
        scheme, out = Scheme.named("int4", method=method, block_size=32), tmp_path / method
        if method == "rtn":
            quantize_checkpoint(source, out, scheme=scheme)
        else:
            with calibrated_quantizer(source, rows, method, workspace=tmp_path / "work") as quantizer:
                manifest = quantize_checkpoint(source, out, scheme=scheme, quantizer=quantizer)
            assert manifest.quantization.method == method
        kl[method] = compare(engine, LoadedModel.open(out).engine, rows).kl_mean
    assert list((tmp_path / "work").iterdir()) == []
    assert kl["gptq"] < 0.8 * kl["rtn"]
    assert kl["weighted"] < kl["rtn"]


def test_the_models_own_text_is_seeded_and_follows_its_distribution():
    # Token 0 stops; 1 is followed by 2 or 3 with odds 3 : 1, both of which are followed by 0.
    after = {1: {2: np.log(3.0), 3: 0.0}, 2: {0: 0.0}, 3: {0: 0.0}}

    def row(tokens):
        logits = np.full(4, -1e4)
        for token, value in after[tokens[-1]].items():
            logits[token] = value
        return logits

    def draw(**options):
        engine = ScriptedEngine(row, 4)
        return sample_rows(engine, **{"tokens": 1500, "start": 1, "stop": [0], "seed": 5, **options})

    rows = draw()
    assert rows == draw()
    assert rows != draw(seed=6)
    assert {tuple(found) for found in rows} == {(1, 2, 0), (1, 3, 0)}
    assert 0.70 < np.mean([found[1] == 2 for found in rows]) < 0.80
    assert all(len(found) == 2 for found in draw(longest=2, tokens=20))


def test_a_model_calibrates_on_itself(source, tmp_path):
    scheme = Scheme.named("int4", method="gptq", block_size=32)
    with calibrated_quantizer(source, None, "gptq", workspace=tmp_path / "work", tokens=800) as quantizer:
        quantize_checkpoint(source, tmp_path / "own", scheme=scheme, quantizer=quantizer)
    quantize_checkpoint(source, tmp_path / "rtn", scheme=Scheme.named("int4", method="rtn", block_size=32))
    quantize_checkpoint(source, tmp_path / "float32", scheme=Scheme.named("fp32"))
    reference, own, rtn = (LoadedModel.open(tmp_path / name).engine for name in ("float32", "own", "rtn"))
    rows = sample_rows(reference, tokens=400, start=1, seed=9)
    assert compare(reference, own, rows).kl_mean < 0.9 * compare(reference, rtn, rows).kl_mean


def test_what_cannot_be_calibrated_is_refused(source, rows, tmp_path):
    with (
        pytest.raises(SchemeError, match="method 'rtn' does not use a calibration text"),
        calibrated_quantizer(source, rows, "rtn", workspace=tmp_path),
    ):
        pass
    with (
        pytest.raises(SchemeError, match="has 300 tokens, but the model's context is 256"),
        calibrated_quantizer(source, [[1] * 300], "gptq", workspace=tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
