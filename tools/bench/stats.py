"""Blocks measured in alternation, the rejection of disturbed ones, and medians with paired ratios."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

__all__ = ["Block", "Summary", "interleave", "measure", "paired_ratio", "summarise"]


@dataclass(frozen=True, slots=True)
class Block:
    """One prefill and the decode steps after it, of one engine in one round.

    `prefill_s` and the entries of `decode_s` are seconds; `others_cpu` is the CPU time that processes
    outside the benchmark used meanwhile (stolen time included) divided by the block's wall-clock time, so
    that 1.0 is one busy core, or `None` where the operating system does not say. A C loop that reports one
    figure for many steps gives its mean, repeated.
    """

    engine: str
    round: int
    prompt: int
    prefill_s: float
    decode_s: tuple[float, ...]
    others_cpu: float | None = None
    accepted: bool = True


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of one engine at one prompt length. Rates are tokens per second.

    `ttft_s` is the time from prompt ids to the first picked token (the prefill, its head and the pick).
    `disturbed` is true when no block was quiet enough and the figures come from disturbed ones.
    """

    engine: str
    prompt: int
    prefill_tps: float
    decode_tps: float
    ttft_s: float
    decode_ms_p10: float
    decode_ms_p90: float
    blocks: int
    rejected: int
    disturbed: bool


@dataclass(slots=True)
class Collected:
    """All blocks of one measurement, rejected ones included."""

    blocks: list[Block] = field(default_factory=list)

    def of(self, engine: str, prompt: int) -> list[Block]:
        """The blocks of one engine at one prompt length, in the order measured."""
        return [b for b in self.blocks if b.engine == engine and b.prompt == prompt]


def interleave(engines: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """(round, engine) in alternation.

    Every second round runs backwards, so that an engine is not always measured after the same neighbour and a
    steady drift of the machine's speed falls on all alike.
    """
    for number in range(rounds):
        yield from ((number, name) for name in (engines if number % 2 == 0 else reversed(engines)))


def measure(
    engines: Sequence[str],
    prompts: Sequence[int],
    rounds: int,
    run_block: Callable[[str, int, int], Block],
    *,
    max_others: float | None = 0.06,
    attempts: int = 5,
    on_block: Callable[[Block], None] | None = None,
) -> Collected:
    """Measure `rounds` blocks of every engine at every prompt length, repeating the disturbed ones.

    Args:
        run_block: called with (engine, round, prompt length).
        max_others: a block during which other processes used more than this share of one core is rejected and
            measured again; `None` accepts everything.
        attempts: how often a block is measured at most before its round goes without an accepted one.
        on_block: told of every block, for progress.

    Raises:
        ValueError: rounds or attempts are below 1.
    """
    if rounds < 1 or attempts < 1:
        raise ValueError(f"rounds ({rounds}) and attempts ({attempts}) must be at least 1")
    out = Collected()
    for prompt in prompts:
        for number, name in interleave(engines, rounds):
            for _ in range(attempts):
                block = run_block(name, number, prompt)
                quiet = max_others is None or block.others_cpu is None or block.others_cpu <= max_others
                if not quiet:
                    block = Block(
                        name,
                        number,
                        prompt,
                        block.prefill_s,
                        block.decode_s,
                        block.others_cpu,
                        accepted=False,
                    )
                out.blocks.append(block)
                if on_block is not None:
                    on_block(block)
                if quiet:
                    break
    return out


def _usable(blocks: Sequence[Block]) -> list[Block]:
    """The accepted blocks, or all of them when none was accepted."""
    return [b for b in blocks if b.accepted] or list(blocks)


def summarise(blocks: Iterable[Block]) -> Summary:
    """Medians over the accepted blocks of one engine at one prompt length.

    Decode: the median over blocks of the block's median step, so that a block counts once however long it is.

    Raises:
        ValueError: there are no blocks, or they are of several engines or prompt lengths.
    """
    every = list(blocks)
    if len({(b.engine, b.prompt) for b in every}) != 1:
        raise ValueError(
            f"expected blocks of one engine at one prompt length, got {[(b.engine, b.prompt) for b in every]}"
        )
    used = _usable(every)
    steps = sorted(statistics.median(b.decode_s) for b in used if b.decode_s)
    every_step = sorted(s for b in used for s in b.decode_s)
    prefill = statistics.median(b.prefill_s for b in used)
    return Summary(
        engine=used[0].engine,
        prompt=used[0].prompt,
        prefill_tps=used[0].prompt / prefill,
        decode_tps=1 / statistics.median(steps) if steps else 0.0,
        ttft_s=prefill,
        decode_ms_p10=_quantile(every_step, 0.1) * 1e3,
        decode_ms_p90=_quantile(every_step, 0.9) * 1e3,
        blocks=len(used),
        rejected=sum(not b.accepted for b in every),
        disturbed=not any(b.accepted for b in every),
    )


def paired_ratio(ours: Sequence[Block], peer: Sequence[Block], what: str) -> float | None:
    """Median over rounds of our speed divided by the peer's in the same round; `what` is `decode` or
    `prefill`.

    Pairing within rounds cancels slow changes of the machine that a quotient of two medians would keep.
    Rounds in which one side has no accepted block are left out (unless a side has none at all); `None` when
    no round is left.

    Raises:
        ValueError: `what` is something else.
    """
    if what not in ("decode", "prefill"):
        raise ValueError(f"what must be 'decode' or 'prefill', not {what!r}")

    def cost(block: Block) -> float:
        return block.prefill_s if what == "prefill" else statistics.median(block.decode_s)

    mine, theirs = ({b.round: cost(b) for b in _usable(side)} for side in (ours, peer))
    ratios = [theirs[number] / mine[number] for number in sorted(mine.keys() & theirs.keys())]
    return statistics.median(ratios) if ratios else None


def _quantile(ordered: Sequence[float], level: float) -> float:
    """The nearest-rank quantile of a sorted list; 0 for an empty one."""
    return ordered[min(len(ordered) - 1, round(level * (len(ordered) - 1)))] if ordered else 0.0
