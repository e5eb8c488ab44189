"""Errors of `offload`; one base class. `edge_runtime/errors.py` draws the whole picture."""

__all__ = ["OffloadError", "SimulationError", "OutcomesError"]


class OffloadError(Exception):
    """Base of every error that `offload` raises on purpose."""


class OutcomesError(OffloadError):
    """A file of recorded outcomes cannot be read or does not suffice; names file, line and field."""


class SimulationError(OffloadError):
    """A network trace, device profile or set of outcomes that a simulation cannot use."""
