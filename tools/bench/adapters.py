"""The engines of the benchmark behind one small interface (`protocol.Adapter`).

Each imports its library in its constructor, so that this file loads in every environment. All decode
greedily. With `evidence`, every token's log-probability, entropy and margin are computed from the raw
logits: by our graph inside the step, by numpy for the peers, whose interfaces give the row of logits.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from tools.bench.protocol import serve

__all__ = ["ADAPTERS", "RowEvidence"]

TOPK = 8


class RowEvidence:
    """Evidence from one row of logits, in numpy, as fast as numpy allows.

    The top k come from chunk maxima: k chunks contain them all. Buffers are reused. ~.3 ms for 151,936
    logits.
    """

    def __init__(self, vocab: int) -> None:
        sizes = (64, 32, 16, 8, 4, 2)
        self._chunk = next((c for c in sizes if vocab % c == 0 and vocab // c >= 4 * TOPK), 1)
        self._buffer = np.empty(vocab, np.float32)

    def __call__(self, row: Any) -> tuple[int, float, float, float]:
        """(token, its log-probability, entropy, margin), nats; `row` float32 [V]."""
        table = row.reshape(-1, self._chunk)
        chunks = np.argpartition(table.max(1), -TOPK)[-TOPK:]
        ids = (chunks[:, None] * self._chunk + np.arange(self._chunk)).ravel()
        values = row[ids]
        order = np.argpartition(values, -TOPK)[-TOPK:]
        order = order[np.argsort(-values[order])]
        top = values[order]
        np.subtract(row, top[0], out=self._buffer)
        np.exp(self._buffer, out=self._buffer)
        total = float(self._buffer.sum())
        lse = float(top[0]) + float(np.log(total))
        entropy = lse - float(np.dot(self._buffer, row)) / total
        return int(ids[order[0]]), float(top[0]) - lse, entropy, float(top[0] - top[1])


class _RowPicker:
    """Greedy choice from a row of logits, with or without evidence."""

    def __init__(self, evidence: bool, vocab: int) -> None:
        self._score = RowEvidence(vocab) if evidence else None
        self.last: tuple[float, float, float] | None = None

    def pick(self, row: Any) -> int:
        if self._score is None:
            return int(row.argmax())
        token, *figures = self._score(row)
        self.last = (figures[0], figures[1], figures[2])
        return token


class Ours:
    """This runtime, at the level of `SequenceState.forward`.

    Options: package, threads, engine (tuning fields). The tokenizer is left out, as it is with the peers.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        from edge_runtime.engines.tuning import SessionTuning
        from edge_runtime.model import open_engine
        from model_zoo import open_package

        tuning = SessionTuning.choose({"threads": options["threads"], **options.get("engine", {})})
        self._engine = open_engine(open_package(options["package"]), tuning)
        self._sequence = self._engine.new_sequence()
        self.last: tuple[float, float, float] | None = None

    def prefill(self, tokens: Sequence[int]) -> int:
        self._sequence.rewind(0)
        return self._score(tokens)

    def step(self, token: int) -> int:
        return self._score((token,))

    def _score(self, tokens: Sequence[int]) -> int:
        scores = self._sequence.forward(tokens)
        best, second = scores.topk_logits[0, :2].tolist()
        self.last = (best - float(scores.lse[0]), float(scores.entropy[0]), best - second)
        return int(scores.topk_ids[0, 0])

    def info(self) -> dict[str, Any]:
        from edge_runtime import ort

        return {"onnxruntime": ort.load().__version__, "threads": self._engine.info.threads}


class Genai:
    """onnxruntime-genai. Options: folder, threads, evidence, max_length."""

    def __init__(self, options: dict[str, Any]) -> None:
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime_genai

        self._lib = onnxruntime_genai
        config = onnxruntime_genai.Config(options["folder"])
        session = {"intra_op_num_threads": options["threads"]}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._model = onnxruntime_genai.Model(config)
        self._max = options["max_length"]
        self._evidence = options["evidence"]
        self._picker: _RowPicker | None = None
        self._generator: Any = None

    def prefill(self, tokens: Sequence[int]) -> int:
        self._generator = None  # its KV buffers go before the next ones come
        params = self._lib.GeneratorParams(self._model)
        # min_length: the end token of a random model must not end the measurement.
        params.set_search_options(max_length=self._max, min_length=self._max, do_sample=False)
        self._generator = self._lib.Generator(self._model, params)
        self._generator.append_tokens(np.array([tokens], np.int32))
        return self._pick()

    def step(self, token: int) -> int:
        # generate_next_token() picks from the logits at hand; the forward pass for the token picked before
        # happens at its next call, so one call is one pass and one pick.
        return self._pick()

    def _pick(self) -> int:
        if self._evidence:
            row = np.asarray(self._generator.get_logits()).reshape(-1)
            if self._picker is None:
                self._picker = _RowPicker(True, row.size)
            self._picker.pick(row)
        self._generator.generate_next_token()
        return int(self._generator.get_next_tokens()[0])

    def info(self) -> dict[str, Any]:
        return {"onnxruntime-genai": self._lib.__version__}


class LlamaCpp:
    """llama.cpp through llama-cpp-python's `Llama.eval`.

    Options: model, threads, evidence, context, flash_attn.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        import llama_cpp

        self._lib = llama_cpp
        self._llama = llama_cpp.Llama(
            options["model"],
            n_ctx=options["context"],
            n_threads=options["threads"],
            n_threads_batch=options["threads"],
            n_batch=512,
            flash_attn=options.get("flash_attn", True),
            verbose=False,
        )
        vocab = self._llama.n_vocab()
        pointer = ctypes.POINTER(ctypes.c_float)
        self._row = lambda: np.ctypeslib.as_array(
            ctypes.cast(self._llama._ctx.get_logits(), pointer), (vocab,)
        )
        self._picker = _RowPicker(options["evidence"], vocab)

    def prefill(self, tokens: Sequence[int]) -> int:
        self._llama.reset()
        return self._eval(list(tokens))

    def step(self, token: int) -> int:
        return self._eval([token])

    def _eval(self, tokens: list[int]) -> int:
        self._llama.eval(tokens)
        return self._picker.pick(self._row())

    def info(self) -> dict[str, Any]:
        return {"llama-cpp-python": self._lib.__version__}


class Transformers:
    """transformers in float32 on torch. Options: checkpoint, threads."""

    def __init__(self, options: dict[str, Any]) -> None:
        import torch
        import transformers

        self._torch, self._lib = torch, transformers
        torch.set_num_threads(options["threads"])
        load = transformers.AutoModelForCausalLM.from_pretrained
        self._model = load(options["checkpoint"], dtype=torch.float32, local_files_only=True).eval()
        self._cache: Any = None

    def prefill(self, tokens: Sequence[int]) -> int:
        self._cache = None
        return self._run(tokens)

    def step(self, token: int) -> int:
        return self._run((token,))

    def _run(self, tokens: Sequence[int]) -> int:
        with self._torch.inference_mode():
            ids = self._torch.tensor([list(tokens)])
            out = self._model(ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
            self._cache = out.past_key_values
            return int(out.logits[0, -1].argmax())

    def info(self) -> dict[str, Any]:
        return {"transformers": self._lib.__version__, "torch": self._torch.__version__}


ADAPTERS = {"ours": Ours, "genai": Genai, "llama": LlamaCpp, "transformers": Transformers}


def main() -> None:
    """Serve requests from standard input; the first argument is the descriptor for the answers."""
    with contextlib.suppress(BrokenPipeError), os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as answers:
        serve(ADAPTERS, sys.stdin, answers)


if __name__ == "__main__":
    main()
