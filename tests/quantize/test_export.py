"""Checkpoint in, package out: what is in it, and that a failure leaves nothing behind."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graph_runner import GraphRunner

from model_zoo import StoreError, open_package
from quantize import CheckpointError, ExporterError, Scheme, SchemeError, UnsupportedArchitectureError
from quantize import quantize_checkpoint as export
from quantize.export import package_id
from quantize.weights import WeightPlan
from tools.make_checkpoint import PRESETS, make_checkpoint

INT4 = Scheme.named("int4")
NOON = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
CARD = "---\nlicense: apache-2.0\nlicense_link: https://example.org/licence\ntags:\n- text\n---\n# Card\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "tiny-hf", PRESETS["tiny"])


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "tiny-hf")


def test_a_package_says_what_it_is_and_verifies(source: Path, tmp_path: Path) -> None:
    (source / "README.md").write_text(CARD)
    (source / "LICENSE").write_text("Permission is granted.")
    (source / "generation_config.json").write_text(
        '{"eos_token_id": [0, 7], "do_sample": true, "temperature": 0.6, "top_p": 0.9, "max_length": 20}'
    )
    manifest = export(
        source, tmp_path / "tiny.v1", scheme=INT4, now=lambda: NOON, repository="someone/tiny", revision="abc"
    )
    package = open_package(tmp_path / "tiny.v1")
    package.verify(full=True)
    assert package.manifest == manifest
    assert manifest.id == "tiny.v1"
    assert manifest.architecture == "LlamaForCausalLM"
    assert (manifest.context_length, manifest.vocab_size, manifest.parameters) == (512, 512, 131392)
    assert manifest.quantization.scheme == "int4"
    assert manifest.quantization.head_bits == 8
    assert manifest.memory.kv_bytes_per_token == 2 * 2 * 2 * 16 * 4
    assert manifest.memory.weights_bytes == (package.path / "model.onnx.data").stat().st_size
    assert manifest.engine_options["layers"] == 2
    assert manifest.generation.eos_token_ids == (0, 7)
    assert manifest.generation.bos_token_id == 1
    assert manifest.generation.pad_token_id is None
    assert manifest.generation.defaults == {"temperature": 0.6, "top_p": 0.9}
    assert (manifest.licence.id, manifest.licence.url) == ("apache-2.0", "https://example.org/licence")
    assert manifest.source.repository == "someone/tiny"
    assert manifest.source.created == "2026-01-31T12:00:00Z"
    assert manifest.source.sha256
    assert set(manifest.files) == {
        "LICENSE",
        "MODEL_CARD.md",
        "chat_template.jinja",
        "model.onnx",
        "model.onnx.data",
        "tokenizer.json",
    }


def test_memory_needed_counts_float16_as_the_float32_it_becomes(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "tiny-hf", {**PRESETS["tiny"], "tie_word_embeddings": False})
    half = export(source, tmp_path / "fp16", scheme=Scheme.named("fp16"))
    full = export(source, tmp_path / "fp32", scheme=Scheme.named("fp32"))
    assert half.files["model.onnx.data"].size < 0.7 * full.files["model.onnx.data"].size
    assert half.memory.weights_bytes == pytest.approx(full.memory.weights_bytes, rel=0.02)
    assert half.memory.runtime_bytes == full.memory.runtime_bytes == (96 << 20) + 512 * 64 * 4


def test_the_same_checkpoint_gives_the_same_bytes_whatever_the_slice(source: Path, tmp_path: Path) -> None:
    first = export(source, tmp_path / "a", scheme=INT4, now=lambda: NOON, name="same")
    second = export(source, tmp_path / "b", scheme=INT4, now=lambda: NOON, name="same", slice_bytes=1000)
    assert first.files == second.files
    assert first.revision == second.revision


def test_shards_give_the_same_package_as_one_file(tmp_path: Path) -> None:
    for shards in (1, 5):
        source = make_checkpoint(tmp_path / f"hf{shards}", PRESETS["tiny"], shards=shards)
        export(source, tmp_path / f"out{shards}", scheme=INT4)
    assert (tmp_path / "out1/model.onnx.data").read_bytes() == (
        tmp_path / "out5/model.onnx.data"
    ).read_bytes()


def test_progress_counts_every_byte_and_names_the_layers(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    export(source, tmp_path / "out", scheme=INT4, progress=lambda *event: seen.append(event))
    done = [event[0] for event in seen]
    assert done == sorted(done)
    assert seen[-1][0] == seen[-1][1]
    steps = list(dict.fromkeys(event[2] for event in seen))
    assert steps == ["embedding and head", "rotary tables", "layer 1 of 2", "layer 2 of 2", "final norm"]


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"chat_template.jinja": "A", "tokenizer_config.json": '{"chat_template": "B"}'}, "A"),
        ({"tokenizer_config.json": '{"chat_template": "B"}'}, "B"),
        (
            {
                "tokenizer_config.json": json.dumps(
                    {
                        "chat_template": [
                            {"name": "tool", "template": "T"},
                            {"name": "default", "template": "D"},
                        ]
                    }
                )
            },
            "D",
        ),
        ({"tokenizer_config.json": "{}", "chat_template.json": '{"chat_template": "J"}'}, "J"),
    ],
)
def test_the_chat_template_is_found_where_publishers_put_it(
    source: Path, tmp_path: Path, files: dict[str, str], found: str
) -> None:
    for name, text in files.items():
        (source / name).write_text(text)
    export(source, tmp_path / "out", scheme=INT4)
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == found


def test_a_checkpoint_without_chat_template_is_exported_with_a_warning(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (source / "tokenizer_config.json").unlink()
    with caplog.at_level(logging.WARNING):
        manifest = export(source, tmp_path / "out", scheme=INT4)
    assert "chat_template.jinja" not in manifest.files
    assert "has no chat template: the package answers plain prompts only" in caplog.text


def test_a_context_length_is_the_checkpoints_unless_another_is_asked_for(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "hf", {**PRESETS["tiny"], "max_position_embeddings": 40000})
    assert export(source, tmp_path / "a", scheme=INT4).context_length == 32768
    assert export(source, tmp_path / "b", scheme=INT4, context_length=40000).context_length == 40000
    with pytest.raises(
        SchemeError, match="context length 50000 is not possible; the checkpoint was trained for up to"
    ):
        export(source, tmp_path / "c", scheme=INT4, context_length=50000)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("qwen.edge", "qwen"), ("My model (v2)", "My-model-v2"), ("--", "model"), ("a" * 200, "a" * 128)],
)
def test_folder_names_become_package_ids(name: str, wanted: str) -> None:
    assert package_id(name) == wanted


# --- refusals: before anything is written ---


def edit_config(source: Path, **changes: Any) -> None:
    path = source / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"num_hidden_layers": 3},
            CheckpointError,
            r"has no tensor 'model\.layers\.2\.input_layernorm\.weight'",
        ),
        (
            {"intermediate_size": 200},
            CheckpointError,
            r"has shape \[192, 64\], but config\.json asks for \[200, 64\]",
        ),
        ({"tie_word_embeddings": False}, CheckpointError, r"has no tensor 'lm_head\.weight'"),
        (
            {"architectures": ["RwkvForCausalLM"]},
            UnsupportedArchitectureError,
            r"RwkvForCausalLM; supported: Llama",
        ),
        (
            {"num_attention_heads": 8, "num_key_value_heads": 4},
            UnsupportedArchitectureError,
            r"heads of 8 channels are not supported; the attention operator needs a multiple of 16",
        ),
        (
            {"partial_rotary_factor": 0.5},
            UnsupportedArchitectureError,
            r"rotating 8 channels of a head is not supported",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    edit_config(source, **changes)
    with pytest.raises(error, match=message):
        export(source, tmp_path / "out", scheme=INT4)
    assert left_in(tmp_path) == []


def test_a_missing_tokenizer_is_refused(source: Path, tmp_path: Path) -> None:
    (source / "tokenizer.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.json is missing\. A checkpoint with another tokenizer"
    ):
        export(source, tmp_path / "out", scheme=INT4)
    assert left_in(tmp_path) == []


def test_too_little_disk_space_is_noticed_before_anything_is_written(source: Path, tmp_path: Path) -> None:
    asked: list[Path] = []

    def probe(folder: Path) -> int:
        asked.append(folder)
        return 100_000

    out = tmp_path / "not" / "there" / "yet"
    with pytest.raises(
        ExporterError, match=r"the package needs 0 MiB, but .* has 0 MiB free\. Free some space"
    ):
        export(source, out, scheme=INT4, free_bytes=probe)
    assert asked == [tmp_path]
    assert left_in(tmp_path) == []


def test_a_method_that_needs_a_text_is_refused_without_one(source: Path, tmp_path: Path) -> None:
    with pytest.raises(SchemeError, match=r"method 'gptq' needs activations of the model"):
        export(source, tmp_path / "out", scheme=Scheme.named("int4", method="gptq"))


# --- failures while writing ---


def test_a_disk_that_fills_up_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = WeightPlan.write, []

    def full(plan: WeightPlan, path: Path, progress: Any = None) -> None:
        def stop(done: int, total: int, step: str) -> None:
            calls.append(step)
            if done > total / 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        write(plan, path, stop)

    monkeypatch.setattr(WeightPlan, "write", full)
    with pytest.raises(StoreError, match=r"(?i)no space|full"):
        export(source, tmp_path / "out", scheme=INT4)
    assert calls
    assert left_in(tmp_path) == []


def test_an_interrupt_leaves_nothing_and_an_existing_package_stays(source: Path, tmp_path: Path) -> None:
    export(source, tmp_path / "out", scheme=INT4)
    before = (tmp_path / "out" / "manifest.json").read_bytes()

    def interrupt(done: int, total: int, step: str) -> None:
        if step == "layer 2 of 2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(source, tmp_path / "out", scheme=Scheme.named("int8"), overwrite=True, progress=interrupt)
    assert left_in(tmp_path) == ["out"]
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before


def test_an_existing_package_is_replaced_only_when_asked(source: Path, tmp_path: Path) -> None:
    export(source, tmp_path / "out", scheme=INT4)
    with pytest.raises(StoreError, match="exists already"):
        export(source, tmp_path / "out", scheme=Scheme.named("int8"))
    assert (
        export(source, tmp_path / "out", scheme=Scheme.named("int8"), overwrite=True).quantization.bits == 8
    )


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "tiny-hf", PRESETS["tiny"], std=3e4, dtype="F32")
    with pytest.raises(
        SchemeError, match=r"has values beyond float16 \(±65504\); use --scheme fp32, int8 or int4"
    ):
        export(source, tmp_path / "out", scheme=Scheme.named("fp16"))
    source = make_checkpoint(tmp_path / "tiny-hf", PRESETS["tiny"], std=float("nan"), dtype="F32")
    with pytest.raises(SchemeError, match=r"tensor .model\..*NaN or infinite"):
        export(source, tmp_path / "out", scheme=INT4)
    assert left_in(tmp_path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from quantize import Scheme, quantize_checkpoint

def die(done, total, step):
    if step == "layer 2 of 2":
        os.kill(os.getpid(), signal.SIGKILL)

quantize_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), scheme=Scheme.named("int4"), progress=die)
"""


def test_a_killed_run_leaves_no_half_package_and_the_next_one_cleans_up(
    source: Path, tmp_path: Path, repository: Path
) -> None:
    out = tmp_path / "out"
    run = subprocess.run([sys.executable, "-c", KILLED, source, out], cwd=repository, check=False)
    assert run.returncode == -signal.SIGKILL
    assert not out.exists()
    assert left_in(tmp_path) != []  # the partial folder that nobody could remove
    export(source, out, scheme=INT4)
    assert left_in(tmp_path) == ["out"]
    open_package(out).verify(full=True)
    assert np.isfinite(GraphRunner(out).feed([1, 2, 3])["logits"]).all()
