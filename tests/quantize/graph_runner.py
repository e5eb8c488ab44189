"""A bare loop over the fused graph: one set of KV buffers, bound in place. Follows docs/onnx-graph.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime import ort


class GraphRunner:
    """Feeds tokens and returns every output of the step; `rewind` makes the cache shorter."""

    def __init__(self, package: Path, *, capacity: int = 128, threads: int = 1, fill: float = 7.0) -> None:
        self.ort = ort.load()
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = self.ort.InferenceSession(
            str(package / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self.length = 0
        self.cache: dict[str, Any] = {}
        for given in self.session.get_inputs():
            if given.name.startswith("past_key_values."):
                shape = (1, given.shape[1], capacity, given.shape[3])
                self.cache[given.name] = self.ort.OrtValue.ortvalue_from_numpy(
                    np.full(shape, fill, np.float32)
                )
        self.outputs = [o.name for o in self.session.get_outputs() if not o.name.startswith("present.")]

    def feed(
        self, tokens: list[int], num_logits: int | None = None, **more: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Append tokens to the cache; outputs of the last `num_logits` of them (all by default)."""
        binding = self.session.io_binding()
        self.length += len(tokens)
        feeds = {
            "input_ids": np.array([tokens], np.int64),
            "seqlens_k": np.array([self.length - 1], np.int32),
            "total_sequence_length": np.array(self.length, np.int32),
            "num_logits": np.array([num_logits or len(tokens)], np.int64),
            **more,
        }
        for name, value in feeds.items():
            binding.bind_cpu_input(name, value)
        for name, value in self.cache.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), value)
        for name in self.outputs:
            binding.bind_output(name)
        self.session.run_with_iobinding(binding)
        # Outputs come in the order of their binding: the cache first.
        values = binding.get_outputs()[len(self.cache) :]
        return {name: value.numpy()[0] for name, value in zip(self.outputs, values, strict=True)}

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self.length = length
