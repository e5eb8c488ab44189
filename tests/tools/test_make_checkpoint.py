"""Random checkpoints: they encode any text, and their numbers are what bfloat16 can hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from quantize import Checkpoint
from tools.make_checkpoint import PRESETS, make_checkpoint


def test_the_tokenizer_encodes_any_text_and_covers_the_vocabulary(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, PRESETS["tiny"])
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == PRESETS["tiny"]["vocab_size"]
    text = "naïve café, 東京, 🙂\n\t\x00"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("<|im_start|>").ids == [1]


def test_the_same_seed_gives_the_same_weights_and_another_others(tmp_path: Path) -> None:
    files = [
        make_checkpoint(tmp_path / str(place), PRESETS["tiny"], seed=seed) / "model.safetensors"
        for place, seed in enumerate((1, 1, 2))
    ]
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


def test_bfloat16_is_rounded_to_the_nearest(tmp_path: Path) -> None:
    """bfloat16 keeps 8 significant bits: the error is at most 2^-8 of the number, half of that on average."""
    for dtype in ("F32", "BF16"):
        make_checkpoint(tmp_path / dtype, PRESETS["tiny"], dtype=dtype)
    name = "model.layers.0.mlp.down_proj.weight"
    with Checkpoint.open(tmp_path / "F32") as exact, Checkpoint.open(tmp_path / "BF16") as narrow:
        wanted, found = exact.rows(name), narrow.rows(name)
    assert (np.abs(found - wanted) <= np.abs(wanted) * 2.0**-8).all()
    assert np.abs(found - wanted).mean() < np.abs(wanted).mean() * 2.0**-9
    assert abs(float((found - wanted).mean())) < 1e-6


def test_a_vocabulary_that_cannot_hold_the_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a vocabulary of 100 cannot hold the 258 basic tokens"):
        make_checkpoint(tmp_path, {**PRESETS["tiny"], "vocab_size": 100})


def test_the_script_says_what_it_made(tmp_path: Path, repository: Path) -> None:
    script = repository / "tools" / "make_checkpoint.py"
    run = subprocess.run(
        [sys.executable, script, "tiny", tmp_path / "out", "--layers", "1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "tiny, 0 MiB of weights" in run.stdout
    with Checkpoint.open(tmp_path / "out") as checkpoint:
        assert checkpoint.config["num_hidden_layers"] == 1
        assert "model.layers.1.mlp.up_proj.weight" not in checkpoint
