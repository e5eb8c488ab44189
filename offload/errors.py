"""Errors of `offload`; one base class. `edge_runtime/errors.py` draws the whole picture."""

__all__ = ["OffloadError"]


class OffloadError(Exception):
    """Base of every error that `offload` raises on purpose."""
