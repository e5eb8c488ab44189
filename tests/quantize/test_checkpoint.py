"""The safetensors reader: what it reads is what was stored, and every damage has an error that names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantize import Checkpoint, CheckpointError
from tools.make_checkpoint import PRESETS, make_checkpoint


def write_safetensors(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)


def entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    return tmp_path


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        ("F32", np.array([1.5, -2.25, 3e-5, 7], np.float32)),
        ("F16", np.array([1.5, -2.25, 3e-5, 7], np.float16)),
        ("BF16", np.array([0x3FC0, 0xC010, 0x37FC, 0x40E0], np.uint16)),
    ],
)
def test_every_supported_dtype_is_read_exactly(folder: Path, dtype: str, stored: np.ndarray) -> None:
    write_safetensors(
        folder / "model.safetensors", {"w": entry(dtype, [2, 2], 0, stored.nbytes)}, stored.tobytes()
    )
    with Checkpoint.open(folder) as checkpoint:
        rows = checkpoint.rows("w")
    wanted = [1.5, -2.25, float(stored[2]) if dtype != "BF16" else 3.0040740966796875e-05, 7]
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows.ravel(), np.array(wanted, np.float32))


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_reads_the_same_as_the_safetensors_library(tmp_path: Path, dtype: str) -> None:
    safetensors = pytest.importorskip("safetensors", reason="the safetensors library is not installed")
    make_checkpoint(tmp_path, PRESETS["tiny"], dtype=dtype, norm_std=0.5)
    library = safetensors.deserialize((tmp_path / "model.safetensors").read_bytes())
    with Checkpoint.open(tmp_path) as checkpoint:
        assert {name for name, _ in library} == set(checkpoint.tensors)
        for name, found in library:
            raw = bytes(found["data"])
            if dtype == "BF16":
                wanted = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
            else:
                wanted = np.frombuffer(raw, np.float16 if dtype == "F16" else np.float32).astype(np.float32)
            np.testing.assert_array_equal(checkpoint.rows(name), wanted.reshape(found["shape"]))


def test_slices_are_the_rows_in_pieces_no_larger_than_asked(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, PRESETS["tiny"])
    with Checkpoint.open(tmp_path) as checkpoint:
        name = "model.embed_tokens.weight"
        pieces = list(checkpoint.slices(name, 3, 500, slice_bytes=10 * 64 * 4 + 3))
        assert {piece.shape[0] for piece in pieces[:-1]} == {10}
        np.testing.assert_array_equal(np.concatenate(pieces), checkpoint.rows(name, 3, 500))
        assert [p.shape for p in checkpoint.slices(name, 0, 2, slice_bytes=1)] == [(1, 64), (1, 64)]


def test_shards_hold_the_same_tensors_as_one_file(tmp_path: Path) -> None:
    one = make_checkpoint(tmp_path / "one", PRESETS["tiny"])
    many = make_checkpoint(tmp_path / "many", PRESETS["tiny"], shards=4)
    assert len(list(many.glob("*.safetensors"))) == 4
    with Checkpoint.open(one) as left, Checkpoint.open(many) as right:
        assert set(left.tensors) == set(right.tensors)
        for name in left.tensors:
            np.testing.assert_array_equal(left.rows(name), right.rows(name))


def test_the_digest_tells_checkpoints_apart(tmp_path: Path) -> None:
    first = make_checkpoint(tmp_path / "a", PRESETS["tiny"])
    again = make_checkpoint(tmp_path / "b", PRESETS["tiny"])
    other = make_checkpoint(tmp_path / "c", {**PRESETS["tiny"], "rope_theta": 1e6})
    digests = [Checkpoint.open(folder).digest for folder in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]


# --- damage ---


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        Checkpoint.open(folder)
    return str(error.value)


def test_a_missing_folder_or_config_is_named(tmp_path: Path) -> None:
    assert "nowhere is not a folder with a checkpoint" in refused(tmp_path / "nowhere")
    assert "config.json is missing" in refused(tmp_path)


@pytest.mark.parametrize(
    ("text", "part"), [("{", "is not valid JSON"), ("[]", "holds a JSON list, not an object")]
)
def test_an_unreadable_config_is_named(folder: Path, text: str, part: str) -> None:
    (folder / "config.json").write_text(text)
    assert part in refused(folder)


def test_a_folder_without_weights_says_what_it_looked_for(folder: Path) -> None:
    assert "neither model.safetensors nor model.safetensors.index.json" in refused(folder)
    (folder / "pytorch_model.bin").touch()
    assert "holds pytorch_model.bin but no safetensors. Convert it first" in refused(folder)


def test_a_truncated_shard_names_both_lengths(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, PRESETS["tiny"])
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert f"its header describes {len(whole)} bytes, the file has {len(whole) - 100}" in refused(tmp_path)
    for kept in (0, 5, 300):
        path.write_bytes(whole[:kept])
        assert "is not a safetensors file or is cut short" in refused(tmp_path)


def test_a_file_that_shrinks_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, PRESETS["tiny"])
    with Checkpoint.open(tmp_path) as checkpoint:
        path = tmp_path / "model.safetensors"
        path.write_bytes(path.read_bytes()[:5000])
        with pytest.raises(
            CheckpointError, match=r"ended while reading 'model\.norm\.weight': wanted 128 bytes, got 0"
        ):
            checkpoint.rows("model.norm.weight")


def test_a_missing_shard_and_a_broken_promise_of_the_index_are_named(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, PRESETS["tiny"], shards=3)
    index_path = tmp_path / "model.safetensors.index.json"
    index = json.loads(index_path.read_text())
    index["weight_map"]["model.extra"] = "model-00001-of-00003.safetensors"
    index_path.write_text(json.dumps(index))
    assert "holds the tensor 'model.extra', but it does not" in refused(tmp_path)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors is missing, but the checkpoint's index lists it" in refused(
        tmp_path
    )
    index_path.write_text("{}")
    assert "has no 'weight_map'" in refused(tmp_path)


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (b"not json", "has an unreadable safetensors header"),
        (b"[1]", "has an unreadable safetensors header"),
        ({"w": {"dtype": "F32"}}, "has an unreadable safetensors header: KeyError('shape')"),
        (
            {"w": entry("F8_E4M3", [4], 0, 4)},
            "tensor 'w' is stored as F8_E4M3; only BF16, F16, F32 can be read",
        ),
        (
            {"w": entry("F32", [2, 2], 0, 12)},
            "shape [2, 2] and dtype F32 cannot take 12 bytes; the header is damaged",
        ),
    ],
)
def test_a_damaged_header_is_refused(folder: Path, header: Any, part: str) -> None:
    write_safetensors(folder / "model.safetensors", header, bytes(64))
    assert part in refused(folder)


def test_a_giant_header_length_does_not_take_the_memory(folder: Path) -> None:
    write_safetensors(folder / "model.safetensors", {}, length=1 << 60)
    assert "its header is incomplete" in refused(folder)


def test_a_missing_tensor_names_near_ones_and_a_wrong_shape_both_shapes(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, PRESETS["tiny"])
    with Checkpoint.open(tmp_path) as checkpoint:
        with pytest.raises(
            CheckpointError, match=r"no tensor 'language_model\.model\.norm\.weight'; it has model\.norm"
        ):
            checkpoint.info("language_model.model.norm.weight")
        with pytest.raises(CheckpointError, match=r"has shape \[64\], but config\.json asks for \[65\]"):
            checkpoint.expect("model.norm.weight", (65,))
