"""The training loop: one-threaded workers, a schedule over time, checkpoints that a later run resumes.

Small matrices keep one core busy and gain nothing from a second thread (barriers cost more than they bring,
more so on a shared machine), so each worker computes the gradient of its half of the batch on one thread and
the flat gradients are averaged. Weights are float32; the forward and backward passes compute in bfloat16.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from .config import ModelConfig, TrainConfig
from .data import Corpus, Example, Mixture, encode, validation
from .grow import grow
from .model import Decoder
from .muon import Muon
from .vocabulary import joined_words, train_tokenizer

Encoded = tuple[list[int], int]


def pad(rows: list[Encoded]) -> tuple[Tensor, Tensor]:
    """Right-padded tokens int64 [B, T] and where answers are predicted, bool [B, T-1]; pad is id 0."""
    length = max(len(ids) for ids, _ in rows)
    tokens = torch.zeros((len(rows), length), dtype=torch.long)
    answers = torch.zeros((len(rows), length - 1), dtype=torch.bool)
    for i, (ids, prompt) in enumerate(rows):
        tokens[i, : len(ids)] = torch.tensor(ids)
        answers[i, prompt - 1 : len(ids) - 1] = True
    return tokens, answers


def batches(mixture: Mixture, tokenizer: Tokenizer, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of rows of like length, about `size` tokens with padding."""
    while True:
        pool: list[Encoded] = sorted(
            encode(tokenizer, (mixture.draw() for _ in range(16 * size // 27))), key=lambda row: len(row[0])
        )
        groups: list[list[Encoded]] = [[]]
        for row in pool:
            if groups[-1] and (len(groups[-1]) + 1) * len(row[0]) > size:
                groups.append([])
            groups[-1].append(row)
        mixture.rng.shuffle(groups)
        yield from (pad(group) for group in groups)


def loss_of(model: Decoder, tokens: Tensor, answers: Tensor, prompt_loss: float, keep: float = 0.3) -> Tensor:
    """Mean answer loss plus `prompt_loss` x mean next-token loss on a random share `keep` of the prompt."""
    target, hidden = tokens[:, 1:], model(tokens)[:, :-1]
    prompt = (target != 0) & ~answers & (torch.rand(target.shape) < keep)
    losses = F.cross_entropy(model.logits(torch.cat((hidden[answers], hidden[prompt]))),
                             torch.cat((target[answers], target[prompt])), reduction="none")  # fmt: skip
    count = int(answers.sum())
    loss = losses[:count].mean()
    if prompt_loss and losses.numel() > count:
        loss = loss + prompt_loss * losses[count:].mean()
    return loss


@torch.no_grad()
def score(model: Decoder, tokenizer: Tokenizer, examples: list[Example]) -> dict[str, float]:
    """Answer loss, intent and frame accuracy. Greedy decoding writes the reference exactly where every
    reference token
    is the most likely one after the tokens before it, so one pass scores an utterance."""
    model.eval()
    rows = encode(tokenizer, examples)
    loss = count = right = frames = 0.0
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    for start in range(0, len(order), 64):
        tokens, answers = pad([rows[i] for i in order[start : start + 64]])
        target = tokens[:, 1:]
        logits = model.logits(model(tokens)[:, :-1][answers])
        loss += float(F.cross_entropy(logits, target[answers], reduction="sum"))
        count += logits.shape[0]
        hit = torch.ones_like(answers)
        hit[answers] = logits.argmax(-1) == target[answers]
        frames += float(hit.all(1).sum())
        first = answers.float().argmax(1)
        span = torch.arange(answers.shape[1])[None] - first[:, None]
        right += float((hit | (span > 1) | (span < 0)).all(1).sum())
    model.train()
    return {"loss": loss / count, "intent": right / len(rows), "frame": frames / len(rows)}


def optimizers(model: Decoder, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, Adam for the rest; groups carry their `peak` rate."""
    c = model.c
    head = c.hidden // c.heads
    rows = {"qkv": (c.heads * head, c.kv_heads * head, c.kv_heads * head), "gate_up": (c.ffn, c.ffn)}
    matrices, decay, plain = [], [], []
    for name, p in model.named_parameters():
        if p.dim() < 2:
            plain.append(p)
        elif config.matrix_rate and name != "embed":
            matrices.append((p, rows.get(name.rsplit(".", 1)[-1], (p.shape[0],))))
        else:
            decay.append(p)
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=config.learning_rate, betas=(0.9, config.beta2), fused=True,
        )
    ]  # fmt: skip
    if matrices:
        found.append(Muon(matrices, config.matrix_rate, weight_decay=config.weight_decay))
    for optimizer in found:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return found


class Run:
    """One worker of a training run in folder `out`."""

    def __init__(self, config: TrainConfig, data: Path, out: Path, rank: int, log: Any) -> None:
        self.out, self.rank, self.log = out, rank, log
        self.corpus = Corpus(data, config)
        self.tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
        self.config = replace(config, model=replace(config.model, vocab_size=self.tokenizer.get_vocab_size()))
        torch.manual_seed(config.seed)
        self.model = Decoder(self.config.model, getattr(torch, config.dtype))
        if config.grow_from and not (out / "state.pt").exists():
            small, _ = load(out.parent / config.grow_from)
            self.model.load_state_dict(grow(small, self.config.model, config.seed).state_dict())
        self.params = list(self.model.parameters())
        self.optimizers = optimizers(self.model, config)
        self.ema = [p.detach().clone() for p in self.params]
        self.step, self.elapsed, self.tokens = 0, 0.0, 0
        if (out / "state.pt").exists():
            self._load(torch.load(out / "state.pt", weights_only=True))

    def _load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.ema = state["ema"]
        self.step, self.elapsed, self.tokens = state["step"], state["elapsed"], state["tokens"]
        self.log(f"resumed at step {self.step}, {self.elapsed / 60:.1f} minutes in")

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "ema": self.ema,
            "step": self.step,
            "elapsed": self.elapsed,
            "tokens": self.tokens,
            "config": json.dumps(asdict(self.config)),
        }
        part = self.out / "state.pt.part"
        torch.save(state, part)
        part.replace(self.out / "state.pt")

    def rate(self, progress: float) -> float:
        """Share of the peak rates: warm-up over steps, level, then linear decay over the last of the time."""
        c = self.config
        warm = min(1.0, (self.step + 1) / c.warmup_steps)
        left = min(1.0, max(0.0, 1 - progress) / c.decay_share)
        return warm * (c.final_share + (1 - c.final_share) * left)

    def train(self) -> None:
        c, total = self.config, self.config.minutes * 60
        mixture = Mixture(self.corpus, c.shares, hash((c.seed, self.rank, self.step)), c.steps)
        torch.manual_seed(c.seed * 1000 + self.rank + 7 * self.step)
        source = batches(mixture, self.tokenizer, c.batch_tokens // c.workers)
        held = validation(self.corpus) if self.rank == 0 else {}
        last = saved = time.monotonic()
        mean, since, self.begun_tokens = 0.0, 0, self.tokens
        sizes = [p.numel() for p in self.params]
        flat = torch.zeros(sum(sizes) + 3)
        parent = os.getppid()
        while self.elapsed < total:
            if os.getppid() != parent:  # killed: its workers must not go on writing where a new run resumes
                raise SystemExit(f"{self.out}: the process that started this worker is gone")
            tokens, answers = next(source)
            loss = loss_of(self.model, tokens, answers, c.prompt_loss)
            loss.backward()
            torch.cat([p.grad.reshape(-1) for p in self.params], out=flat[:-3])
            now = time.monotonic()
            flat[-3:] = torch.tensor((now - last, float(loss.detach()), float(tokens.numel())))
            last = now
            if c.workers > 1:
                dist.all_reduce(flat)
                flat /= c.workers
            self.elapsed += float(flat[-3])
            self.tokens += round(float(flat[-1]) * c.workers)
            for p, g in zip(self.params, flat[:-3].split(sizes), strict=True):
                p.grad = g.view_as(p)
            torch.nn.utils.clip_grad_norm_(self.params, c.clip)
            rate = self.rate(self.elapsed / total)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["peak"]
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.step += 1
            mean, since = mean + float(flat[-2]), since + 1
            if self.rank:
                continue
            decay = min(c.ema, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.ema, [p.detach() for p in self.params], 1 - decay)
            if self.step % 50 == 0:
                speed = self.tokens / self.elapsed
                self.log(
                    f"step {self.step} loss {mean / since:.4f} rate {rate:.2f} {speed:.0f} tokens/s "
                    f"{self.elapsed / 60:.1f} of {c.minutes:.0f} min"
                )
                mean, since = 0.0, 0
            if self.step % c.validate_every == 0 or self.elapsed >= total:
                self.validate(held)
            if now - saved > c.checkpoint_seconds or self.elapsed >= total:
                self.save()
                saved = now

    def validate(self, held: dict[str, list[Example]]) -> None:
        """Scores of the averaged weights on the held-out rows."""
        own = [p.detach().clone() for p in self.params]
        for p, average in zip(self.params, self.ema, strict=True):
            p.data.copy_(average)
        found = {name: score(self.model, self.tokenizer, rows) for name, rows in held.items()}
        for p, before in zip(self.params, own, strict=True):
            p.data.copy_(before)
        line = {name: {k: round(x, 4) for k, x in s.items()} for name, s in found.items()}
        self.log("validation " + json.dumps({"step": self.step, "tokens": self.tokens, **line}))


def worker(rank: int, config: TrainConfig, data: Path, out: Path) -> None:
    torch.set_num_threads(1)
    if config.workers > 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        dist.init_process_group(
            "gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=config.workers
        )

    def log(line: str) -> None:
        if rank == 0:
            with (out / "log.txt").open("a") as file:
                file.write(f"{time.strftime('%H:%M:%S')} {line}\n")

    run = Run(config, data, out, rank, log)
    log(f"{run.model.parameters_count() / 1e6:.2f}M parameters, vocabulary {run.config.model.vocab_size}")
    run.train()
    log("finished")


def start(config: TrainConfig, data: Path, out: Path) -> None:
    """Train in `out`, resuming what is there."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "rendezvous").unlink(missing_ok=True)
    random.seed(config.seed)
    if config.grow_from and not (out / "tokenizer.json").exists():
        shutil.copy(out.parent / config.grow_from / "tokenizer.json", out / "tokenizer.json")
    if not (out / "tokenizer.json").exists():
        corpus = Corpus(data, config)
        joined = joined_words(corpus.texts(), corpus.values())
        made = train_tokenizer(corpus.texts(), config.bpe_size, corpus.intents(), corpus.slots(), joined)
        made.save(str(out / "tokenizer.json"))
    config.save(out / "config.json")
    if config.workers == 1:
        worker(0, config, data, out)
        return
    torch.multiprocessing.spawn(worker, (config, data, out), nprocs=config.workers)


def load(out: Path) -> tuple[Decoder, Tokenizer]:
    """The averaged weights of a run, in float32."""
    state = torch.load(out / "state.pt", weights_only=True)
    shape = ModelConfig(**json.loads(state["config"])["model"])
    model = Decoder(shape)
    for p, average in zip(model.parameters(), state["ema"], strict=True):
        p.data.copy_(average)
    return model.eval(), Tokenizer.from_file(str(out / "tokenizer.json"))


def progress(out: Path) -> dict[str, float]:
    """How far a run has come: steps, tokens, minutes."""
    state = torch.load(out / "state.pt", weights_only=True)
    return {"steps": state["step"], "tokens": state["tokens"], "minutes": state["elapsed"] / 60}
