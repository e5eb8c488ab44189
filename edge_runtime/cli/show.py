"""How an answer and its evidence are shown to a person."""

from __future__ import annotations

from collections.abc import Iterable

from edge_runtime.cli.output import print_table
from offload.types import Answer, Token

__all__ = ["evidence_rows", "print_tokens", "refusal", "status_line"]


def status_line(answer: Answer) -> str:
    """One line: source, model, confidence, tokens, speed."""
    parts = [answer.source, answer.model_id or "unknown model", _confidence(answer)]
    evidence = answer.evidence
    if evidence is not None:
        forced = evidence.n - evidence.n_scored
        parts.append(f"{evidence.n} tokens" + (f", {forced} forced" if forced else "") + _duration(answer))
        if evidence.finish_reason not in (None, "stop"):
            parts.append(
                {"length": "stopped at the token limit"}.get(
                    str(evidence.finish_reason), str(evidence.finish_reason)
                )
            )
    speed = answer.timings.get("tokens_per_s")
    if speed:
        parts.append(f"{speed:,.0f} tokens/s")
    return " · ".join(parts)


def refusal(answer: Answer) -> str:
    """Why an answer was not given out."""
    return f"refused: {'by the policy' if answer.decision is None else answer.decision.reason}"


def _duration(answer: Answer) -> str:
    seconds = answer.timings.get("total_s")
    if seconds is None:
        return ""
    return f" in {seconds:.1f} s" if seconds >= 1 else f" in {1000 * seconds:.0f} ms"


def _confidence(answer: Answer) -> str:
    if answer.confidence is not None and answer.confidence.p_correct is not None:
        return f"P(correct) {answer.confidence.p_correct:.2f}"
    mean = answer.evidence.mean_logprob if answer.evidence is not None else None
    if mean is None:
        return "no evidence"
    # A calibration that says nothing of this answer has a reason that fits in no status line.
    calibrated = answer.confidence is not None and answer.confidence.calibration_id is not None
    return f"mean log-probability {mean:.3f} ({'no probability' if calibrated else 'uncalibrated'})"


def evidence_rows(answer: Answer) -> list[tuple[str, str]]:
    """Every figure of the evidence by name; figures that are missing are left out."""
    evidence = answer.evidence
    if evidence is None:
        return []
    rows = [
        ("tokens", f"{evidence.n} ({evidence.n_scored} scored)"),
        ("mean log-probability", _nats(evidence.mean_logprob)),
        ("lowest log-probability", _nats(evidence.min_logprob)),
        *(
            (f"{100 * level:g} % of tokens below", _nats(value))
            for level, value in evidence.quantiles.items()
        ),
        ("mean entropy", _nats(evidence.mean_entropy)),
        ("highest entropy", _nats(evidence.max_entropy)),
        ("mean margin", _nats(evidence.mean_margin)),
        *((name.replace("_", " "), f"{value:.2f}") for name, value in evidence.extra.items()),
        ("ended because", evidence.finish_reason),
        ("no probability because", answer.confidence.reason if answer.confidence is not None else None),
    ]
    return [(name, value) for name, value in rows if value is not None]


def _nats(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f} nats"


def print_tokens(tokens: Iterable[Token]) -> None:
    """A table of tokens with their evidence on stdout."""
    rows = [
        (
            repr(token.text)[1:-1],
            token.id,
            "forced" if token.forced else _number(token.logprob),
            _number(token.entropy),
            _number(token.margin),
        )
        for token in tokens
    ]
    print_table(("token", "id", "log-probability", "entropy", "margin"), rows)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
