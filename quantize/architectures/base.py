"""The vocabulary of the descriptions, and the decoder block that all of them share.

Every supported model is the same pre-norm decoder (norm → grouped-query attention → add → norm → gated MLP →
add) with a few switches: biases, q/k norms, extra norms before the additions, windows, activations, rotary
variants, tied head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from quantize.errors import CheckpointError, UnsupportedArchitectureError
from quantize.rope import Rope, rope_from_config

__all__ = [
    "Activation",
    "Attention",
    "Block",
    "Config",
    "HasTensor",
    "Layer",
    "Linear",
    "Mlp",
    "ModelDescription",
    "Norm",
    "Rows",
    "decoder",
]

Activation = Literal["silu", "gelu", "gelu_tanh"]
HasTensor = Callable[[str], bool]

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}


@dataclass(frozen=True)
class Rows:
    """Rows start:stop of a tensor of `of` rows in the checkpoint."""

    tensor: str
    start: int
    stop: int
    of: int

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.stop - self.start


@dataclass(frozen=True)
class Linear:
    """y = x Wᵀ + b, with W [out_features, in_features] stacked from `parts` and b from `biases` (or none)."""

    parts: tuple[Rows, ...]
    in_features: int
    biases: tuple[Rows, ...] = ()

    @property
    def out_features(self) -> int:
        """Rows of W."""
        return sum(part.count for part in self.parts)

    def stacked(self, other: Linear) -> Linear:
        """Both as one: the outputs of `self` followed by those of `other`."""
        return Linear(self.parts + other.parts, self.in_features, self.biases + other.biases)


@dataclass(frozen=True)
class Norm:
    """RMS norm over the last `size` channels (arXiv 1910.07467); `plus_one`: the stored weight lacks a 1."""

    tensor: str
    size: int
    epsilon: float
    plus_one: bool = False


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention (arXiv 2305.13245) with rotary positions.

    `qkv` yields heads·head_dim query, then kv_heads·head_dim key, then as many value channels. `window`: a
    token sees itself and the window - 1 tokens before it; None sees all. `rope` names one of the model's
    `ropes`.
    """

    qkv: Linear
    out: Linear
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    rope: str = "default"
    window: int | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    softcap: float | None = None


@dataclass(frozen=True)
class Mlp:
    """down(activation(gate(x)) · up(x))."""

    gate: Linear
    up: Linear
    down: Linear
    activation: Activation


@dataclass(frozen=True)
class Layer:
    """One decoder block. The `*_out_norm` are applied to a branch before it is added (Gemma)."""

    attention_norm: Norm
    attention: Attention
    mlp_norm: Norm
    mlp: Mlp
    attention_out_norm: Norm | None = None
    mlp_out_norm: Norm | None = None


@dataclass(frozen=True)
class ModelDescription:
    """A whole model. `head` is None when the embedding serves as head. `context_length` is the trained one,
    tokens."""

    architecture: str
    vocab_size: int
    hidden_size: int
    context_length: int
    embedding: str
    layers: tuple[Layer, ...]
    final_norm: Norm
    head: str | None
    ropes: Mapping[str, Rope]
    embedding_scale: float | None = None
    logit_softcap: float | None = None

    def whole(self, tensor: str) -> Linear:
        """The embedding or the head as a matrix [vocab_size, hidden_size]."""
        return Linear((Rows(tensor, 0, self.vocab_size, self.vocab_size),), self.hidden_size)

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that the model reads, with the shape it must have."""
        wanted: dict[str, tuple[int, ...]] = {self.embedding: (self.vocab_size, self.hidden_size)}
        if self.head is not None:
            wanted[self.head] = (self.vocab_size, self.hidden_size)
        for norm in self.norms():
            wanted[norm.tensor] = (norm.size,)
        for linear in self.linears():
            wanted.update({part.tensor: (part.of, linear.in_features) for part in linear.parts})
            wanted.update({bias.tensor: (bias.of,) for bias in linear.biases})
        return wanted

    def linears(self) -> list[Linear]:
        """All matrices but embedding and head, in the order of their use."""
        return [
            linear
            for layer in self.layers
            for linear in (
                layer.attention.qkv,
                layer.attention.out,
                layer.mlp.gate,
                layer.mlp.up,
                layer.mlp.down,
            )
        ]

    def norms(self) -> list[Norm]:
        """All norms, in the order of their use."""
        found = [
            norm
            for layer in self.layers
            for norm in (
                layer.attention_norm,
                layer.attention.q_norm,
                layer.attention.k_norm,
                layer.attention_out_norm,
                layer.mlp_norm,
                layer.mlp_out_norm,
            )
        ]
        return [norm for norm in [*found, self.final_norm] if norm is not None]

    def parameters(self) -> int:
        """Number of weights, tied ones counted once."""
        total = 0
        for shape in self.tensors().values():
            count = 1
            for n in shape:
                count *= n
            total += count
        return total


class Config(Mapping[str, Any]):
    """config.json with errors that name the missing field."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        value = self._values.get(key)
        if value is None:
            raise CheckpointError(f"config.json has no '{key}', which {self.architecture} needs")
        return value

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or the default where the field is missing or null."""
        value = self._values.get(key)
        return default if value is None else value

    @property
    def architecture(self) -> str:
        """First of `architectures`."""
        return str((self._values.get("architectures") or ["?"])[0])

    @property
    def heads(self) -> int:
        """Query heads."""
        return int(self["num_attention_heads"])

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return int(self.get("num_key_value_heads", self.heads))

    @property
    def head_dim(self) -> int:
        """Channels per head."""
        return int(self.get("head_dim", int(self["hidden_size"]) // self.heads))

    @property
    def activation(self) -> Activation:
        """The MLP's activation.

        Raises:
            UnsupportedArchitectureError: one that the graph has no operators for.
        """
        name = self.get("hidden_act", self.get("hidden_activation", "silu"))
        if name not in _ACTIVATIONS:
            raise UnsupportedArchitectureError(
                f"activation '{name}' of {self.architecture} is not supported; "
                f"supported: {', '.join(_ACTIVATIONS)}"
            )
        return _ACTIVATIONS[name]

    def windows(self, sliding: Sequence[bool]) -> list[int | None]:
        """The window of each layer: `sliding_window` where `layer_types` (or else `sliding`) says so."""
        window = self.get("sliding_window")
        kinds = self.get("layer_types")
        chosen = [kind == "sliding_attention" for kind in kinds] if kinds else list(sliding)
        return [int(window) if window and on else None for on in chosen]


@dataclass(frozen=True)
class Block:
    """What tells one architecture's block from another's; `decoder` turns it into layers.

    The defaults are Llama's. `fused`: q, k, v are stored as one tensor `qkv_proj` and gate, up as
    `gate_up_proj`.
    """

    prefix: str = "model."
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    fused: bool = False
    four_norms: bool = False
    norm_plus_one: bool = False
    activation: Activation = "silu"
    scale: float | None = None
    softcap: float | None = None
    windows: Sequence[int | None] = ()
    rope_of_layer: Sequence[str] = ()
    ropes: Mapping[str, Rope] = field(default_factory=dict)


def decoder(
    config: Config,
    block: Block,
    *,
    tied: bool,
    head: str = "lm_head.weight",
    embedding_scale: float | None = None,
    logit_softcap: float | None = None,
) -> ModelDescription:
    """The whole model from config.json and what is special about its blocks.

    `tied`: what the architecture's config class assumes where config.json says nothing.

    Raises:
        CheckpointError: config.json lacks a field.
    """
    hidden, count = int(config["hidden_size"]), int(config["num_hidden_layers"])
    epsilon = float(config.get("rms_norm_eps", 1e-6))

    def norm(tensor: str, size: int = hidden) -> Norm:
        return Norm(tensor, size, epsilon, block.norm_plus_one)

    layers = []
    for index in range(count):
        at = f"{block.prefix}layers.{index}."
        layers.append(
            Layer(
                attention_norm=norm(at + "input_layernorm.weight"),
                attention=_attention(config, block, index, at + "self_attn.", hidden, norm),
                attention_out_norm=norm(at + "post_attention_layernorm.weight") if block.four_norms else None,
                mlp_norm=norm(
                    at
                    + ("pre_feedforward_layernorm" if block.four_norms else "post_attention_layernorm")
                    + ".weight"
                ),
                mlp=_mlp(config, block, at + "mlp.", hidden),
                mlp_out_norm=norm(at + "post_feedforward_layernorm.weight") if block.four_norms else None,
            )
        )
    is_tied = bool(config.get("tie_word_embeddings", tied))
    return ModelDescription(
        architecture=config.architecture,
        vocab_size=int(config["vocab_size"]),
        hidden_size=hidden,
        context_length=int(config["max_position_embeddings"]),
        embedding=block.prefix + "embed_tokens.weight",
        layers=tuple(layers),
        final_norm=norm(block.prefix + "norm.weight"),
        head=None if is_tied else head,
        ropes=block.ropes or {"default": rope_from_config(config, config.head_dim)},
        embedding_scale=embedding_scale,
        logit_softcap=logit_softcap,
    )


def _attention(
    config: Config, block: Block, index: int, at: str, hidden: int, norm: Callable[[str, int], Norm]
) -> Attention:
    heads, kv_heads, dim = config.heads, config.kv_heads, config.head_dim
    sizes = {"q": heads * dim, "k": kv_heads * dim, "v": kv_heads * dim}
    if block.fused:
        total = sum(sizes.values())
        qkv = Linear((Rows(at + "qkv_proj.weight", 0, total, total),), hidden)
    else:
        qkv = Linear(
            tuple(Rows(f"{at}{name}_proj.weight", 0, n, n) for name, n in sizes.items()),
            hidden,
            tuple(Rows(f"{at}{name}_proj.bias", 0, n, n) for name, n in sizes.items())
            if block.qkv_bias
            else (),
        )
    return Attention(
        qkv=qkv,
        out=_linear(at + "o_proj", hidden, heads * dim, block.out_bias),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=dim,
        scale=dim**-0.5 if block.scale is None else block.scale,
        rope=block.rope_of_layer[index] if block.rope_of_layer else "default",
        window=block.windows[index] if block.windows else None,
        q_norm=norm(at + "q_norm.weight", dim) if block.qk_norm else None,
        k_norm=norm(at + "k_norm.weight", dim) if block.qk_norm else None,
        softcap=block.softcap,
    )


def _mlp(config: Config, block: Block, at: str, hidden: int) -> Mlp:
    inner = int(config["intermediate_size"])
    if block.fused:
        gate = Linear((Rows(at + "gate_up_proj.weight", 0, inner, 2 * inner),), hidden)
        up = Linear((Rows(at + "gate_up_proj.weight", inner, 2 * inner, 2 * inner),), hidden)
    else:
        gate = _linear(at + "gate_proj", inner, hidden, block.mlp_bias)
        up = _linear(at + "up_proj", inner, hidden, block.mlp_bias)
    return Mlp(gate, up, _linear(at + "down_proj", hidden, inner, block.mlp_bias), block.activation)


def _linear(name: str, out: int, inner: int, bias: bool) -> Linear:
    return Linear(
        (Rows(name + ".weight", 0, out, out),), inner, (Rows(name + ".bias", 0, out, out),) if bias else ()
    )
