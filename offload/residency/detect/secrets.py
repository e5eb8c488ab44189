"""Credentials: keys and tokens by the forms their makers give them, and passwords by what stands before."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

__all__ = ["keys", "passwords"]

_KEY = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"  # AWS
    r"|\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_\w{22,}"  # GitHub
    r"|\bglpat-[\w-]{20,}|\bxox[abeoprs]-[\w-]{10,}|\bAIza[\w-]{35}"  # GitLab, Slack, Google
    r"|\b(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}|\bsk-[\w-]{20,}"  # Stripe; OpenAI and its like
    r"|\bhf_[A-Za-z0-9]{30,}|\bnpm_[A-Za-z0-9]{36}|\bpypi-[\w-]{50,}"  # Hugging Face, npm, PyPI
    r"|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*"  # JSON Web Token (RFC 7519)
)
_NAMED = re.compile(
    r"\b(?:api[ _-]?key|access[ _-]?key|secret[ _-]?key|client[ _-]?secret|token|bearer|authorization)\b"
    r"[\"']?\s{0,2}(?:[:=]|is|ist)?\s{0,2}[\"']?([A-Za-z0-9_\-+/=.]{16,512})",
    re.IGNORECASE,
)
_PASSWORD = re.compile(
    r"\b(?:password|passwort|passwd|passphrase|passcode|kennwort|pwd|pin(?: ?code)?|"
    r"contraseña|mot de passe)\b"
    r"[^:=\n.?!]{0,30}?(?:[:=]\s{0,2}|\b(?:is|ist|es|est)\s)[\"'`]?([^\s\"'`]{3,128})"
    r"|(?<=://)[^\s/:@]{1,64}:([^\s/@]{1,128})(?=@)",
    re.IGNORECASE,
)
_NO_PASSWORDS = "a the not wrong incorrect right correct required too expired invalid in on what where"
_NOT_ONE = frozenset(_NO_PASSWORDS.split())


def keys(text: str) -> Iterator[tuple[int, int]]:
    """Private keys and tokens of known makers, and random-looking text after a word such as `api_key`."""
    for match in _KEY.finditer(text):
        yield match.span()
    for match in _NAMED.finditer(text):
        if _looks_random(match[1]):
            yield match.span(1)


def passwords(text: str) -> Iterator[tuple[int, int]]:
    """What follows `password:` or `my PIN is`, and passwords in addresses (`scheme://user:password@host`)."""
    for match in _PASSWORD.finditer(text):
        group = 1 if match[1] else 2
        if match[group].strip(".,;!?").lower() not in _NOT_ONE:
            yield match.span(group)


def _looks_random(text: str) -> bool:
    """At least 3 bits of Shannon entropy per character, and a digit among them."""
    counts = Counter(text).values()
    entropy = -math.fsum(n / len(text) * math.log2(n / len(text)) for n in counts)
    return entropy >= 3 and any(c.isdigit() for c in text)
