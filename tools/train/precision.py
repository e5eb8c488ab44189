"""Does bfloat16 pay on this processor? The same steps in both precisions: losses and tokens per second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from .config import TrainConfig
from .data import Corpus, Mixture
from .loop import batches, loss_of
from .model import Decoder
from .vocabulary import train_tokenizer


def compare(
    data: Path, steps: int = 60, tokens: int = 1280, clock: Callable[[], float] = time.process_time
) -> dict[str, tuple[list[float], float]]:
    """(losses, tokens per second of processor time) by dtype; one thread, one seed, the same batches."""
    torch.set_num_threads(1)
    config = replace(TrainConfig(), home_samples=5_000)
    corpus = Corpus(data, config)
    tokenizer: Tokenizer = train_tokenizer(corpus.texts(), config.bpe_size, corpus.intents(), corpus.slots())
    shape = replace(config.model, vocab_size=tokenizer.get_vocab_size())
    found = {}
    for dtype in ("float32", "bfloat16"):
        torch.manual_seed(config.seed)
        model = Decoder(shape, getattr(torch, dtype))
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
        source = batches(Mixture(corpus, config.shares, config.seed), tokenizer, tokens)
        torch.manual_seed(config.seed)
        losses, seen, spent = [], 0, 0.0
        for step in range(steps):
            batch, answers = next(source)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * min(1.0, (step + 1) / config.warmup_steps)
            began = clock()
            loss = loss_of(model, batch, answers, config.prompt_loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if step >= 5:
                spent += clock() - began
                seen += batch.numel()
            losses.append(float(loss.detach()))
        found[dtype] = (losses, seen / spent)
    return found


def report(found: dict[str, tuple[list[float], float]]) -> str:
    """Both curves at a few steps, the speeds, and how far the curves are apart."""
    (a, speed_a), (b, speed_b) = found["float32"], found["bfloat16"]
    picks = sorted({0, len(a) // 4, len(a) // 2, 3 * len(a) // 4, len(a) - 1})
    lines = ["| step | loss float32 | loss bfloat16 |", "| --- | --- | --- |"]
    lines += [f"| {i + 1} | {a[i]:.3f} | {b[i]:.3f} |" for i in picks]
    apart = max(abs(x - y) for x, y in zip(a, b, strict=True))
    return "\n".join(
        [
            *lines,
            "",
            f"Largest difference over {len(a)} steps: {apart:.3f}. Tokens per second of processor time, one "
            f"thread: {speed_a:.0f} in float32, {speed_b:.0f} in bfloat16 ({speed_b / speed_a:.2f} ×).",
        ]
    )
