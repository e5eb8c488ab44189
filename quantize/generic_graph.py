"""Quantizes the matrices of a generic graph in place: MatMul with constant weights → MatMulNBits.

What optimum writes has float32 weights, transposed to [in, out], one initializer per matrix. Each becomes
codes and scales in the same format as in our own graphs, so that architectures without a description get
small packages too. Embedding tables stay as they are unless they are gathered and nothing else (then
GatherBlockQuantized reads them).

This module knows ONNX graphs; it does not know architectures or where the graph came from.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from quantize.schemes import Scheme, fitting_block, quantize_block

__all__ = ["quantize_generic"]

_SMALLEST = 1 << 10
"""Matrices with fewer weights stay as they are."""

_MICROSOFT = "com.microsoft"


def quantize_generic(path: Path, scheme: Scheme, vocab_size: int) -> int:
    """Rewrite `path` (model.onnx with its data beside it) with the scheme's codes; returns how many matrices.

    Matrices with `vocab_size` outputs or rows are the head and the embedding. The model is held in memory:
    it has been held in torch before.

    Raises:
        SchemeError: a weight is not finite, or the scheme cannot be carried out.
    """
    model = onnx.load(str(path))
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    fresh: dict[str, tuple[str, str]] = {}
    changed = 0
    for node in graph.node:
        place = {"MatMul": 1, "Gather": 0}.get(node.op_type)
        tensor = weights.get(node.input[place]) if place is not None else None
        if tensor is None or len(tensor.dims) != 2 or tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        if int(np.prod(tensor.dims)) < _SMALLEST:
            continue
        outer = tensor.dims[1] if node.op_type == "MatMul" else tensor.dims[0]
        is_head = outer == vocab_size
        bits = scheme.head_bits if is_head else scheme.bits
        if bits > 8 or (node.op_type == "Gather" and (readers[tensor.name] > 1 or not is_head)):
            continue
        rows = onnx.numpy_helper.to_array(tensor)
        rows = rows.T if node.op_type == "MatMul" else rows
        size = scheme.head_block_size if is_head else scheme.block_size
        block = fitting_block(rows.shape[1], size, scheme.pad_blocks and not is_head)
        if node.op_type == "Gather" and rows.shape[1] % block:
            continue
        key = f"{tensor.name}/{node.op_type}"
        if key not in fresh:
            fresh[key] = _add(graph, key, rows, bits, block, scheme.method, flat=node.op_type == "Gather")
        _rewrite(node, fresh[key], rows.shape, bits, block, scheme.accuracy_level)
        changed += 1
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    if not any(entry.domain == _MICROSOFT for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(_MICROSOFT, 1))
    for old in path.parent.glob(path.name + "*"):
        old.unlink()
    onnx.save_model(
        model, str(path), save_as_external_data=True, location=path.name + ".data", size_threshold=1024
    )
    return changed


def _add(
    graph: onnx.GraphProto,
    name: str,
    rows: NDArray[np.float32],
    bits: int,
    block: int,
    method: str,
    flat: bool,
) -> tuple[str, str]:
    """Codes and scales of `rows` [n, K] as initializers; returns their names."""
    packed, scales = quantize_block(np.ascontiguousarray(rows), bits, block, method)
    shaped: NDArray[Any] = packed.reshape(packed.shape[0], -1) if flat else packed
    names = (name + ".codes", name + ".scales")
    for key, array in zip(names, (shaped, scales), strict=True):
        graph.initializer.append(onnx.numpy_helper.from_array(array, key))
    return names


def _rewrite(
    node: onnx.NodeProto, names: tuple[str, str], shape: tuple[int, ...], bits: int, block: int, accuracy: int
) -> None:
    """Turn a MatMul or Gather into its quantized counterpart."""
    codes, scales = names
    if node.op_type == "MatMul":
        inputs, op = [node.input[0], codes, scales], "MatMulNBits"
        attributes = {"K": shape[1], "N": shape[0], "accuracy_level": accuracy}
    else:
        inputs, op = [codes, node.input[1], scales], "GatherBlockQuantized"
        attributes = {"gather_axis": 0, "quantize_axis": 1}
    del node.input[:], node.attribute[:]
    node.input.extend(inputs)
    node.op_type, node.domain = op, _MICROSOFT
    for key, value in {**attributes, "bits": bits, "block_size": block}.items():
        node.attribute.append(onnx.helper.make_attribute(key, value))
