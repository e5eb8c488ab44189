"""What tests share: tiny real models (a random checkpoint made with numpy, the package made from it), and
fakes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.engines.base import EngineInfo, Scores
from edge_runtime.engines.onnx_generic import score_rows
from edge_runtime.errors import ContextOverflowError

SPECIAL = ("<|end|>", "<|start|>", "<|pad|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
CORPUS = (
    '{"intent":"HassLightSet","slots":{"area":"kitchen","brightness":50}}',
    '{"intent":"HassTurnOff","slots":{"area":"bedroom","name":"lamp"}}',
    "turn off the lights in the kitchen",
    "set the bedroom lamp to fifty percent",
    "naïve café, 東京, 🙂",
)


def byte_tokenizer(merges: int = 96) -> Any:
    """A byte-level BPE tokenizer: `SPECIAL`, the 256 bytes and about `merges` merges. Ids of `SPECIAL` are
    0, 1, 2.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(SPECIAL) + 256 + merges,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 8, trainer)
    return tokenizer


def make_checkpoint(
    folder: Path,
    *,
    seed: int = 0,
    layers: int = 2,
    hidden: int = 64,
    context: int = 256,
    template: str | None = CHAT_TEMPLATE,
) -> Path:
    """A random Llama checkpoint in the Hugging Face layout (float32, tied embedding)."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    vocab, heads, kv_heads, inner = tokenizer.get_vocab_size(), 4, 2, 2 * hidden
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": hidden // heads,
        "vocab_size": vocab, "max_position_embeddings": context, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": True, "torch_dtype": "float32",
        "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    random = np.random.default_rng(seed)
    kv = kv_heads * hidden // heads
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(layers):
        name = f"model.layers.{layer}."
        shapes |= {
            f"{name}input_layernorm.weight": (hidden,),
            f"{name}post_attention_layernorm.weight": (hidden,),
        }
        shapes |= {f"{name}self_attn.{p}_proj.weight": (kv if p in "kv" else hidden, hidden) for p in "qkvo"}
        shapes |= {f"{name}mlp.{p}_proj.weight": (inner, hidden) for p in ("gate", "up")}
        shapes[f"{name}mlp.down_proj.weight"] = (hidden, inner)
    tensors = {
        name: (
            np.ones(shape) if len(shape) == 1 else random.normal(0, 0.2 if "embed" in name else 0.15, shape)
        ).astype("<f4")
        for name, shape in shapes.items()
    }
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def write_safetensors(path: Path, tensors: dict[str, Any]) -> None:
    """float32 arrays in the safetensors layout: header length, JSON header, data."""
    header, offset = {}, 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for array in tensors.values():
            file.write(array.tobytes())


def make_package(folder: Path, *, scheme: str = "fp32", **checkpoint: Any) -> Path:
    """A model package of a random checkpoint, made by `quantize`."""
    from quantize import Scheme, quantize_checkpoint

    source = make_checkpoint(folder.with_name(folder.name + "-checkpoint"), **checkpoint)
    quantize_checkpoint(source, folder, scheme=Scheme.named(scheme), name="tiny", overwrite=True)
    return folder


def random_scores(
    random: np.random.Generator, vocab: int, topk: int = 8, rows: int = 1, spread: float = 3.0
) -> Scores:
    """Scores of random logits, whole rows included."""
    return score_rows(random.normal(0, spread, (rows, vocab)).astype(np.float32), topk)


class ScriptedEngine:
    """An engine without weights: `row(tokens)` gives the logits float32 [V] that follow `tokens`."""

    def __init__(
        self, row: Callable[[list[int]], Any], vocab_size: int, *, context_length: int = 256, topk: int = 8
    ) -> None:
        self.row = row
        self.info = EngineInfo("scripted", "scripted", vocab_size, context_length, topk, 1)
        self.passes: list[int] = []
        """Tokens fed by each forward pass."""

    def new_sequence(self) -> ScriptedSequence:
        return ScriptedSequence(self, [])

    def close(self) -> None:
        self.passes.clear()


class ScriptedSequence:
    def __init__(self, engine: ScriptedEngine, tokens: list[int]) -> None:
        self._engine, self._tokens, self.closed = engine, tokens, False

    @property
    def tokens(self) -> list[int]:
        return self._tokens.copy()

    @property
    def length(self) -> int:
        return len(self._tokens)

    @property
    def nbytes(self) -> int:
        return 100 * len(self._tokens)

    def forward(self, tokens: Sequence[int], *, num_logits: int = 1, want_logits: bool = False) -> Scores:
        if self.length + len(tokens) > self._engine.info.context_length:
            raise ContextOverflowError(f"{self.length + len(tokens)} > {self._engine.info.context_length}")
        self._engine.passes.append(len(tokens))
        self._tokens.extend(tokens)
        ends = range(self.length - num_logits + 1, self.length + 1)
        rows = np.stack([self._engine.row(self._tokens[:end]) for end in ends])
        scores = score_rows(rows, self._engine.info.topk)
        return scores if want_logits else replace(scores, logits=None)

    def rewind(self, length: int) -> None:
        assert 0 <= length <= len(self._tokens)
        del self._tokens[length:]

    def fork(self, length: int) -> ScriptedSequence:
        return ScriptedSequence(self._engine, self._tokens[:length])

    def close(self) -> None:
        self._tokens, self.closed = [], True


def hashed_row(vocab: int, order: int = 2, spread: float = 3.0) -> Callable[[list[int]], Any]:
    """Random logits that depend on the last `order` tokens alone: texts soon repeat, so drafts can be
    right.
    """

    def row(tokens: list[int]) -> Any:
        seed = [len(tokens[-order:]), *tokens[-order:]]
        return np.random.default_rng(seed).normal(0, spread, vocab).astype(np.float32)

    return row


def spelled_row(vocab: int, tokens: Sequence[int], start: int) -> Callable[[list[int]], Any]:
    """Logits that spell `tokens` after a prompt of `start` tokens, whatever was said before."""

    def row(seen: list[int]) -> Any:
        logits = np.zeros(vocab, np.float32)
        logits[tokens[min(len(seen) - start, len(tokens) - 1)]] = 9.0
        return logits

    return row
