"""Labels: what a query is about or holds, as dotted names (`pii.email` is a kind of `pii`).

Knows: which labels stand for which, and the labels that the detectors give. Does not know: rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["ANY", "DETECTED", "covers", "is_known", "is_label", "touches"]

ANY = "*"
"""In a rule: every label."""

DETECTED = (
    "finance.card",
    "finance.iban",
    "finance.topic",
    "health.topic",
    "pii.address",
    "pii.email",
    "pii.location",
    "pii.name",
    "pii.national_id",
    "pii.phone",
    "secret.key",
    "secret.password",
)
"""What `offload.residency.detect` finds; a rule may name these and their parents without declaring them."""

_FORM = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def is_label(text: str) -> bool:
    """Whether the text has the form of a label: lower-case words, digits, `_` and `-`, joined by dots."""
    return _FORM.fullmatch(text) is not None


def covers(general: str, label: str) -> bool:
    """Whether `label` is `general` or a kind of it."""
    return general in (ANY, label) or label.startswith(general + ".")


def touches(named: str, label: str) -> bool:
    """Whether data under `label` may be `named`: one is a kind of the other.

    A query that its caller labelled `pii` may well hold a `pii.email`.
    """
    return covers(named, label) or named.startswith(label + ".")


def is_known(label: str, declared: Iterable[str]) -> bool:
    """Whether a label is declared or detected, or is a parent or a kind of such a one."""
    return any(touches(known, label) for known in (*declared, *DETECTED))
