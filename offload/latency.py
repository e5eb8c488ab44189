"""How long an answer takes, from what this device has seen itself: never from peak FLOPS.

An answer on the device takes prompt tokens / prefill speed + new tokens / decode speed; one from an endpoint
takes the time to its first token, with what is sent over the observed upload speed, + new tokens / its
stream's speed. Speeds are means weighted towards recent ones; how far single answers stray from the
expectation is kept as recent ratios observed / expected, whose quantile scales the expectation for deadlines.

Knows: durations and counts. Does not know: clocks (the caller measures), engines, networks. Times are
seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from offload.errors import PolicyError

__all__ = ["DeviceLatency", "EndpointLatency", "Ewma", "LengthModel", "Spread"]

WEIGHT = 0.1
"""Weight of a new observation in a running mean."""

RATIOS = 64
"""Ratios observed / expected that a spread remembers."""

CAUTION = 2.0
"""The high quantile of the ratio while fewer than `FEW` have been seen."""

FEW = 8


class Ewma:
    """An exponentially weighted mean whose first observations weigh evenly: weight max(1/n, `weight`)."""

    def __init__(self, prior: float | None = None, weight: float = WEIGHT) -> None:
        self.value = prior
        self.weight = weight
        self.n = 0

    def observe(self, x: float) -> None:
        """Count an observation; one that is not a finite number above 0 is not counted."""
        if not (math.isfinite(x) and x > 0):
            return
        self.n += 1
        old = self.value
        self.value = x if old is None or self.n == 1 else old + max(1 / self.n, self.weight) * (x - old)


class Spread:
    """Recent ratios observed / expected, and their quantiles."""

    def __init__(self, ratios: Sequence[float] = ()) -> None:
        self.ratios: deque[float] = deque(ratios, maxlen=RATIOS)

    def observe(self, observed: float, expected: float | None) -> None:
        """Count one answer that was expected to take `expected` seconds."""
        if expected is not None and expected > 0 and math.isfinite(observed) and observed >= 0:
            self.ratios.append(observed / expected)

    def quantile(self, level: float) -> float:
        """The ratio that a share `level` of answers stay in; `CAUTION` at least while few have been seen.

        The ⌈level (n + 1)⌉-th smallest of n, so that it is a conformal bound for the next answer.
        """
        n = len(self.ratios)
        if n < FEW:
            return max([CAUTION, *self.ratios])
        rank = math.ceil(level * (n + 1) - 1e-9)
        return sorted(self.ratios)[min(rank, n) - 1]


class LengthModel:
    """How many tokens an answer will have: a running mean and a high quantile, per task."""

    def __init__(self, prior: float = 64.0) -> None:
        self.mean = Ewma(prior)
        self.spread = Spread()

    def observe(self, tokens: int) -> None:
        """Count an answer's tokens."""
        self.spread.observe(tokens, self.mean.value)
        self.mean.observe(tokens)

    def expected(self) -> float:
        """Expected tokens."""
        return self.mean.value or 0.0

    def high(self, level: float = 0.95, *, most: float = math.inf) -> float:
        """A high quantile of the tokens, `most` at most."""
        return min(most, self.expected() * self.spread.quantile(level))


class DeviceLatency:
    """Latency of a model on this device.

    Args:
        prefill, decode: tokens per second to begin with, measured at a benchmark or `None`.
    """

    def __init__(self, prefill: float | None = None, decode: float | None = None) -> None:
        self.prefill, self.decode = Ewma(prefill), Ewma(decode)
        self.spread = Spread()

    def observe(self, prompt_tokens: int, prefill_s: float, new_tokens: int, decode_s: float) -> None:
        """Count an answer. Prompt tokens are those computed, without the cached ones."""
        self.spread.observe(prefill_s + decode_s, self.expected(prompt_tokens, new_tokens))
        if prompt_tokens > 0 and prefill_s > 0:
            self.prefill.observe(prompt_tokens / prefill_s)
        if new_tokens > 1 and decode_s > 0:  # the first token comes out of the prefill
            self.decode.observe((new_tokens - 1) / decode_s)

    def expected(self, prompt_tokens: float, new_tokens: float) -> float | None:
        """Expected seconds; `None` before anything was measured."""
        if not self.prefill.value or not self.decode.value:
            return None
        return prompt_tokens / self.prefill.value + max(0.0, new_tokens - 1) / self.decode.value

    def high(self, prompt_tokens: float, new_tokens: float, level: float = 0.95) -> float | None:
        """Seconds that a share `level` of answers stays within."""
        expected = self.expected(prompt_tokens, new_tokens)
        return None if expected is None else expected * self.spread.quantile(level)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return _dump({"prefill": self.prefill, "decode": self.decode}, self.spread)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DeviceLatency:
        """The inverse of `to_dict`.

        Raises:
            PolicyError: the record is damaged.
        """
        made = cls()
        _load(data, {"prefill": made.prefill, "decode": made.decode}, made.spread)
        return made


class EndpointLatency:
    """Latency of an endpoint as this device sees it.

    Args:
        first_token_s: seconds to the first token to begin with, such as the configuration's expectation.
        speed: tokens per second of its stream to begin with.
        upload: bytes per second to begin with.
    """

    def __init__(
        self, first_token_s: float | None = None, speed: float | None = None, upload: float | None = None
    ) -> None:
        self.first, self.speed, self.upload = Ewma(first_token_s), Ewma(speed), Ewma(upload)
        self.spread = Spread()

    def observe(
        self,
        sent_bytes: int,
        first_token_s: float,
        tokens: int,
        stream_s: float,
        upload_s: float | None = None,
    ) -> None:
        """Count an answer.

        Args:
            first_token_s: from the start of sending to the first token, the upload included.
            stream_s: from the first token to the last.
            upload_s: seconds that sending took, where the transport can tell.
        """
        self.spread.observe(first_token_s + stream_s, self.expected(sent_bytes, tokens))
        if upload_s and sent_bytes:
            self.upload.observe(sent_bytes / upload_s)
        sending = sent_bytes / self.upload.value if self.upload.value else 0.0
        self.first.observe(max(first_token_s - sending, 1e-6))
        if tokens > 1 and stream_s > 0:
            self.speed.observe((tokens - 1) / stream_s)

    def expected(self, sent_bytes: float, tokens: float) -> float | None:
        """Expected seconds to the whole answer; `None` while nothing is known of the endpoint."""
        if self.first.value is None:
            return None
        seconds = self.first.value
        if self.upload.value:
            seconds += sent_bytes / self.upload.value
        if self.speed.value:
            seconds += max(0.0, tokens - 1) / self.speed.value
        return seconds

    def high(self, sent_bytes: float, tokens: float, level: float = 0.95) -> float | None:
        """Seconds that a share `level` of answers stays within."""
        expected = self.expected(sent_bytes, tokens)
        return None if expected is None else expected * self.spread.quantile(level)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return _dump({"first": self.first, "speed": self.speed, "upload": self.upload}, self.spread)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EndpointLatency:
        """The inverse of `to_dict`.

        Raises:
            PolicyError: the record is damaged.
        """
        made = cls()
        _load(data, {"first": made.first, "speed": made.speed, "upload": made.upload}, made.spread)
        return made


def _dump(means: Mapping[str, Ewma], spread: Spread) -> dict[str, Any]:
    return {**{name: [mean.value, mean.n] for name, mean in means.items()}, "ratios": list(spread.ratios)}


def _load(data: Mapping[str, Any], means: Mapping[str, Ewma], spread: Spread) -> None:
    try:
        values = {name: (data[name][0], int(data[name][1])) for name in means}
        ratios = [float(x) for x in data["ratios"]]
        sensible = all(v is None or (math.isfinite(v) and v > 0 and n >= 0) for v, n in values.values())
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise PolicyError(f"the record of measured latencies is damaged: {error!r}") from error
    if not sensible or not all(math.isfinite(x) and x >= 0 for x in ratios):
        raise PolicyError("the record of measured latencies is damaged: a speed or a ratio makes no sense")
    for name, mean in means.items():
        mean.value, mean.n = values[name]
    spread.ratios.extend(ratios)
