"""Builds the fused ONNX graph of a model description: `docs/onnx-graph.md`, fused graph, version 1.

Only operators and inputs that onnxruntime 1.23 and later have are used (com.microsoft: GroupQueryAttention,
MatMulNBits, GatherBlockQuantized, SkipSimplifiedLayerNormalization, FusedMatMul), with as few nodes per
layer as they allow, since at batch 1 on a small model every node costs a measurable share of a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from quantize.architectures.base import Attention, Layer, Linear, Mlp, ModelDescription, Norm
from quantize.errors import SchemeError
from quantize.graph_tail import add_evidence
from quantize.schemes import Scheme
from quantize.weights import Matrix, WeightPlan

__all__ = ["GRAPH_VERSION", "GraphOptions", "build_graph", "engine_options"]

GRAPH_VERSION = 1
OPSET = 21
IR_VERSION = 10
_MICROSOFT = "com.microsoft"
_END = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class GraphOptions:
    """Choices that change the graph's speed and not its results.

    `fuse_gate_up`: one matrix for gate and up, split afterwards. `prune_last_layer`: the last layer's output
    projection and MLP run for the last M positions only. `fuse_silu`: QuickGelu(1.0), which is SiLU, as one
    node (onnxruntime makes the same of Sigmoid and Mul when it optimizes).
    """

    fuse_gate_up: bool = True
    prune_last_layer: bool = True
    fuse_silu: bool = True


def engine_options(model: ModelDescription, context_length: int, topk: int) -> dict[str, Any]:
    """What the manifest tells the engine about this graph."""
    attention = model.layers[0].attention
    options: dict[str, Any] = {
        "graph": "fused",
        "version": GRAPH_VERSION,
        "layers": len(model.layers),
        "kv_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "kv_dtype": "float32",
        "topk": topk,
    }
    for rope in model.ropes.values():
        if rope.switches_within(context_length):
            options["rope_switch"] = rope.switch
    return options


def build_graph(
    model: ModelDescription,
    plan: WeightPlan,
    scheme: Scheme,
    *,
    context_length: int,
    topk: int,
    options: GraphOptions | None = None,
) -> onnx.ModelProto:
    """The graph, with its weights reserved in `plan` (nothing is read or written yet).

    Raises:
        SchemeError: `topk` does not fit the vocabulary.
    """
    if not 1 <= topk <= model.vocab_size:
        raise SchemeError(
            f"topk is {topk}; it must be from 1 to the size of the vocabulary, {model.vocab_size}"
        )
    return _Builder(model, plan, scheme, context_length, topk, options or GraphOptions()).build()


class _Builder:
    def __init__(
        self,
        model: ModelDescription,
        plan: WeightPlan,
        scheme: Scheme,
        context_length: int,
        topk: int,
        options: GraphOptions,
    ) -> None:
        self.model, self.plan, self.scheme = model, plan, scheme
        self.context_length, self.topk, self.options = context_length, topk, options
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.ropes: dict[str, tuple[str, str]] = {}
        self.positions: dict[str, str] = {}
        self.window_masks: dict[int, str] = {}

    def node(
        self, op: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any
    ) -> str:
        self.nodes.append(
            helper.make_node(
                op, inputs, outputs, name="/" + outputs[0].replace(".", "/"), domain=domain, **attributes
            )
        )
        return outputs[0]

    # --- the whole --------------------------------------------------------------------------------

    def build(self) -> onnx.ModelProto:
        model, plan = self.model, self.plan
        self._declare()
        # 1. head and embedding: tied ones lie in the file once
        plan.step = "embedding and head"
        head, hidden = self._embedding()
        # 2. rotary tables, one pair for each kind of layer
        plan.step = "rotary tables"
        for name in dict.fromkeys(layer.attention.rope for layer in model.layers):
            self._rope(name)
        for window in dict.fromkeys(self._window(layer.attention) for layer in model.layers):
            if window is not None:
                self._window_mask(window)
        # 3. layers; `branch` is what has not been added to the residual stream yet
        branch: str | None = None
        for index, layer in enumerate(model.layers):
            plan.step = f"layer {index + 1} of {len(model.layers)}"
            hidden, branch = self._layer(index, layer, hidden, branch)
        # 4. norm, head, evidence
        plan.step = "final norm"
        assert branch is not None
        last, _ = self._norm("final_norm", model.final_norm, hidden, branch, keep_residual=False)
        if not self.options.prune_last_layer:
            last = self._last_positions(last)
        logits = "logits" if model.logit_softcap is None else "head.raw"
        self._matmul(head, last, logits)
        if model.logit_softcap is not None:
            self._softcap(logits, model.logit_softcap)
        add_evidence(self.node, plan, model.vocab_size, self.topk)
        graph = helper.make_graph(self.nodes, "decoder", self.inputs, self.outputs, plan.initializers)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(_MICROSOFT, 1)],
            ir_version=IR_VERSION,
            producer_name="edge-runtime",
        )

    def _declare(self) -> None:
        value, model = helper.make_tensor_value_info, self.model
        self.inputs += [
            value("input_ids", TensorProto.INT64, ["batch", "sequence"]),
            value("seqlens_k", TensorProto.INT32, ["batch"]),
            value("total_sequence_length", TensorProto.INT32, []),
            value("num_logits", TensorProto.INT64, [1]),
        ]
        self.outputs += [
            value("logits", TensorProto.FLOAT, ["batch", "num_logits", model.vocab_size]),
            value("topk_logits", TensorProto.FLOAT, ["batch", "num_logits", self.topk]),
            value("topk_ids", TensorProto.INT64, ["batch", "num_logits", self.topk]),
            value("lse", TensorProto.FLOAT, ["batch", "num_logits", 1]),
            value("entropy", TensorProto.FLOAT, ["batch", "num_logits", 1]),
        ]
        for index, layer in enumerate(model.layers):
            attention = layer.attention
            shape: list[str | int | None] = ["batch", attention.kv_heads, "capacity", attention.head_dim]
            for part in ("key", "value"):
                self.inputs.append(value(f"past_key_values.{index}.{part}", TensorProto.FLOAT, shape))
                self.outputs.append(value(f"present.{index}.{part}", TensorProto.FLOAT, shape))
        # Negative starts count from the end: −M … end are the last M positions.
        self.plan.constant("slice.axis", [1])
        self.plan.constant("slice.end", [_END])
        self.node("Neg", ["num_logits"], ["slice.start"])

    def _embedding(self) -> tuple[Matrix, str]:
        model, scheme, plan = self.model, self.scheme, self.plan

        def reserve(name: str, tensor: str) -> Matrix:
            return plan.matrix(name, model.whole(tensor), scheme.head_bits, scheme.head_block_size)

        table = reserve("embedding", model.embedding)
        head = table if model.head is None else reserve("head", model.head)
        out = "embedding.out"
        if table.scales is None:
            self.node("Gather", [table.weights, "input_ids"], [out], axis=0)
            if table.bits == 16:
                out = self.node("Cast", [out], ["embedding.float"], to=TensorProto.FLOAT)
        else:
            # The gathering operator wants two dimensions, the multiplying one three: two views of the same
            # bytes.
            dims = (table.rows, table.row_bytes)
            plan.alias("embedding.table", TensorProto.UINT8, dims, table.weights_extent)
            self.node(
                "GatherBlockQuantized",
                ["embedding.table", "input_ids", table.scales],
                [out],
                _MICROSOFT,
                bits=table.bits,
                block_size=table.block,
                gather_axis=0,
                quantize_axis=1,
            )
            if table.columns % table.block:
                plan.constant("embedding.start", [0])
                plan.constant("embedding.end", [table.columns])
                plan.constant("embedding.axis", [2])
                out = self.node(
                    "Slice", [out, "embedding.start", "embedding.end", "embedding.axis"], ["embedding.cut"]
                )
        if model.embedding_scale is not None:
            plan.constant("embedding.scale", model.embedding_scale, dtype=np.float32)
            out = self.node("Mul", [out, "embedding.scale"], ["embedding.scaled"])
        return head, out

    def _rope(self, name: str) -> None:
        rope = self.model.ropes[name]
        factor = rope.factor * math.sqrt(self._rotated_scale(name))
        self.ropes[name] = self.plan.rope(f"rope.{name}", replace(rope, factor=factor), self.context_length)
        self.positions[name] = ""
        if rope.switches_within(self.context_length):
            self.positions[name] = self._switched_positions(f"rope.{name}", rope.switch or 0)

    def _rotated_scale(self, name: str) -> float:
        """The part of the attention scale that the rotary tables carry: all of it where they can, else 1.

        Queries and keys each carry its root. onnxruntime has a faster product of one query row with the keys
        for x86-64, but only takes it when there is nothing left to multiply with (10 to 15 % of the
        attention of a decode step). Channels that are not rotated cannot carry it.
        """
        users = [layer.attention for layer in self.model.layers if layer.attention.rope == name]
        whole = all(2 * self.model.ropes[name].half_dim == attention.head_dim for attention in users)
        scales = {attention.scale for attention in users}
        return scales.pop() if whole and len(scales) == 1 else 1.0

    def _switched_positions(self, name: str, switch: int) -> str:
        """Row numbers of the rotary tables, int64 [1, S]: short rows come first, long rows after `switch` of
        them.

        The input `rope_length` is how long the sequence will be once the whole prompt is in: a prompt fed in
        chunks then uses the same frequencies for all of them.
        """
        plan = self.plan
        if not any(given.name == "rope_length" for given in self.inputs):
            self.inputs.append(helper.make_tensor_value_info("rope_length", TensorProto.INT64, []))
        plan.constant(name + ".switch", switch)
        self._steps()
        self.node("Greater", ["rope_length", name + ".switch"], [name + ".is_long"])
        self.node("Where", [name + ".is_long", name + ".switch", "step.zero"], [name + ".offset"])
        self.node("Add", ["step.positions", name + ".offset"], [name + ".shifted"])
        return self.node("Unsqueeze", [name + ".shifted", "step.first_axis"], [name + ".positions"])

    def _steps(self) -> None:
        """`step.total` int64 [], the cache's length after this step, and `step.positions` int64 [S] of what
        is fed."""
        if any("step.total" in node.output for node in self.nodes):
            return
        for name, value in (("step.zero", 0), ("step.one", 1)):
            self.plan.constant(name, value)
        self.plan.constant("step.first_axis", [0])
        self.node("Cast", ["total_sequence_length"], ["step.total"], to=TensorProto.INT64)
        self.node("Shape", ["input_ids"], ["step.shape"], start=1, end=2)
        self.node("Squeeze", ["step.shape"], ["step.fed"])
        self.node("Sub", ["step.total", "step.fed"], ["step.past"])
        self.node("Range", ["step.past", "step.total", "step.one"], ["step.positions"])

    def _window(self, attention: Attention) -> int | None:
        """The window, where it can be shorter than the sequence."""
        return (
            attention.window
            if attention.window is not None and attention.window < self.context_length
            else None
        )

    def _window_mask(self, window: int) -> None:
        """Attention bias float32 [1, 1, S, T]: −inf for keys `window` or more positions back.

        `local_window_size` alone would do, were it not for onnxruntime up to 1.23, which lets one key more
        through.
        """
        at = f"window.{window}"
        self._steps()
        self.plan.constant(at + ".size", window)
        self.plan.constant(at + ".axes", [1])
        self.plan.constant(at + ".heads", [0, 1])
        self.plan.constant(at + ".hidden", float("-inf"), dtype=np.float32)
        self.plan.constant(at + ".seen", 0.0, dtype=np.float32)
        self.node("Range", ["step.zero", "step.total", "step.one"], [at + ".keys"])
        # The first key that a query at position p sees is p − window + 1.
        self.node("Sub", ["step.positions", at + ".size"], [at + ".before"])
        self.node("Unsqueeze", [at + ".before", at + ".axes"], [at + ".bounds"])
        self.node("LessOrEqual", [at + ".keys", at + ".bounds"], [at + ".outside"])
        self.node("Where", [at + ".outside", at + ".hidden", at + ".seen"], [at + ".matrix"])
        self.window_masks[window] = self.node("Unsqueeze", [at + ".matrix", at + ".heads"], [at + ".mask"])

    # --- one layer --------------------------------------------------------------------------------

    def _layer(self, index: int, layer: Layer, hidden: str, branch: str | None) -> tuple[str, str]:
        at = f"layers.{index}"
        normed, hidden = self._norm(at + ".attention_norm", layer.attention_norm, hidden, branch)
        attended = self._attend(index, layer.attention, normed)
        if self.options.prune_last_layer and index == len(self.model.layers) - 1:
            attended, hidden = self._last_positions(attended), self._last_positions(hidden)
        out = self._linear(at + ".attention.out", layer.attention.out, attended)
        if layer.attention_out_norm is not None:
            out, _ = self._norm(at + ".attention_out_norm", layer.attention_out_norm, out, None)
        normed, hidden = self._norm(at + ".mlp_norm", layer.mlp_norm, hidden, out)
        out = self._mlp(at + ".mlp", layer.mlp, normed)
        if layer.mlp_out_norm is not None:
            out, _ = self._norm(at + ".mlp_out_norm", layer.mlp_out_norm, out, None)
        return hidden, out

    def _norm(
        self, name: str, norm: Norm, hidden: str, branch: str | None, keep_residual: bool = True
    ) -> tuple[str, str]:
        """(norm(hidden + branch), hidden + branch)."""
        weight = self.plan.norm(name + ".weight", norm)
        if branch is None:
            self.node(
                "SimplifiedLayerNormalization",
                [hidden, weight],
                [name],
                epsilon=norm.epsilon,
                axis=-1,
                stash_type=1,
            )
            return name, hidden
        outputs = [name, "", "", name + ".residual"] if keep_residual else [name]
        self.node(
            "SkipSimplifiedLayerNormalization",
            [hidden, branch, weight],
            outputs,
            _MICROSOFT,
            epsilon=norm.epsilon,
        )
        return name, name + ".residual"

    def _attend(self, index: int, attention: Attention, hidden: str) -> str:
        at = f"layers.{index}.attention"
        packed = self._linear(at + ".qkv", attention.qkv, hidden)
        query, key, value = packed, "", ""
        if attention.q_norm is not None and attention.k_norm is not None:
            query, key, value = self._normed_heads(at, attention, packed)
        attributes: dict[str, object] = {}
        window = self._window(attention)
        if window is not None:
            attributes["local_window_size"] = window
        if attention.softcap is not None:
            attributes["softcap"] = attention.softcap
        past, present = f"past_key_values.{index}", f"present.{index}"
        inputs = [query, key, value, past + ".key", past + ".value", "seqlens_k", "total_sequence_length"]
        inputs += self.ropes[attention.rope]
        inputs += [self.positions[attention.rope], "" if window is None else self.window_masks[window]]
        while not inputs[-1]:
            inputs.pop()
        return self.node(
            "GroupQueryAttention",
            inputs,
            [at, present + ".key", present + ".value"],
            _MICROSOFT,
            num_heads=attention.heads,
            kv_num_heads=attention.kv_heads,
            scale=attention.scale / self._rotated_scale(attention.rope),
            do_rotary=1,
            rotary_interleaved=0,
            **attributes,
        )

    def _normed_heads(self, at: str, attention: Attention, packed: str) -> tuple[str, str, str]:
        """Split the packed projection; norm every query and key head on its own.

        GroupQueryAttention has inputs for these norms from onnxruntime 1.24 on; older releases refuse them.
        """
        dim, sizes = attention.head_dim, [attention.heads, attention.kv_heads, attention.kv_heads]
        self.plan.constant(at + ".sizes", [count * dim for count in sizes])
        parts = [f"{at}.{name}" for name in "qkv"]
        self.node("Split", [packed, at + ".sizes"], parts, axis=-1)
        for place, norm in enumerate((attention.q_norm, attention.k_norm)):
            assert norm is not None
            part, count = parts[place], sizes[place]
            self.plan.constant(part + ".heads", [0, 0, count, dim])
            self.plan.constant(part + ".joined", [0, 0, count * dim])
            self.node("Reshape", [part, part + ".heads"], [part + ".split"])
            normed, _ = self._norm(part + "_norm", norm, part + ".split", None)
            parts[place] = self.node("Reshape", [normed, part + ".joined"], [part + ".normed"])
        return parts[0], parts[1], parts[2]

    def _mlp(self, at: str, mlp: Mlp, hidden: str) -> str:
        if self.options.fuse_gate_up:
            both = self._linear(at + ".gate_up", mlp.gate.stacked(mlp.up), hidden)
            gate, up = at + ".gate", at + ".up"
            self.node("Split", [both], [gate, up], axis=-1, num_outputs=2)
        else:
            gate = self._linear(at + ".gate", mlp.gate, hidden)
            up = self._linear(at + ".up", mlp.up, hidden)
        if mlp.activation == "silu":
            if self.options.fuse_silu:
                self.node("QuickGelu", [gate], [at + ".act"], _MICROSOFT, alpha=1.0)
            else:
                self.node("Sigmoid", [gate], [at + ".sigmoid"])
                self.node("Mul", [gate, at + ".sigmoid"], [at + ".act"])
        else:
            approximate = "tanh" if mlp.activation == "gelu_tanh" else "none"
            self.node("Gelu", [gate], [at + ".act"], approximate=approximate)
        self.node("Mul", [at + ".act", up], [at + ".product"])
        return self._linear(at + ".down", mlp.down, at + ".product")

    # --- small parts ------------------------------------------------------------------------------

    def _last_positions(self, hidden: str) -> str:
        """The last M positions of [B, S, …]."""
        return self.node("Slice", [hidden, "slice.start", "slice.end", "slice.axis"], [hidden + ".last"])

    def _linear(self, name: str, linear: Linear, hidden: str) -> str:
        scheme = self.scheme
        matrix = self.plan.matrix(name, linear, scheme.bits, scheme.block_size, scheme.pad_blocks)
        return self._matmul(matrix, hidden, name)

    def _matmul(self, matrix: Matrix, hidden: str, out: str) -> str:
        if matrix.scales is not None:
            inputs = [hidden, matrix.weights, matrix.scales]
            if matrix.bias is not None:
                inputs += ["", "", matrix.bias]
            return self.node(
                "MatMulNBits",
                inputs,
                [out],
                _MICROSOFT,
                K=matrix.columns,
                N=matrix.rows,
                bits=matrix.bits,
                block_size=matrix.block,
                accuracy_level=self.scheme.accuracy_level,
            )
        weights = matrix.weights
        if matrix.bits == 16:
            # CPUs without float16 arithmetic compute in float32: the cast is folded once, when the model is
            # loaded.
            weights = self.node("Cast", [weights], [matrix.weights + ".float"], to=TensorProto.FLOAT)
        # Checkpoints store [out, in]; a tied embedding needs them so too.
        product = out if matrix.bias is None else out + ".product"
        self.node("FusedMatMul", [hidden, weights], [product], _MICROSOFT, transB=1)
        if matrix.bias is not None:
            self.node("Add", [product, matrix.bias], [out])
        return out

    def _softcap(self, raw: str, cap: float) -> None:
        self.plan.constant("head.cap", cap, dtype=np.float32)
        self.node("Div", [raw, "head.cap"], ["head.scaled"])
        self.node("Tanh", ["head.scaled"], ["head.tanh"])
        self.node("Mul", ["head.tanh", "head.cap"], ["logits"])
