"""Errors of `offload`; one base class. `edge_runtime/errors.py` draws the whole picture."""

__all__ = [
    "CalibrationError",
    "GuaranteeError",
    "OffloadError",
    "OutcomesError",
    "PolicyError",
    "ResidencyError",
    "RouterFileError",
    "SimulationError",
]


class OffloadError(Exception):
    """Base of every error that `offload` raises on purpose."""


class CalibrationError(OffloadError):
    """A calibration cannot be made from these rows, cannot be read, or belongs to another model."""


class GuaranteeError(OffloadError):
    """A promise about wrong answers that cannot be tested: a level out of range, or rows that do not fit."""


class OutcomesError(OffloadError):
    """A file of recorded outcomes cannot be read or does not suffice; names file, line and field."""


class PolicyError(OffloadError):
    """A routing policy, budget or price that cannot be followed; names the setting and its value."""


class ResidencyError(OffloadError):
    """A residency policy that contradicts itself, or a detector that cannot be had; names which."""


class RouterFileError(OffloadError):
    """A saved router that is missing, damaged or of another format; says how to train one."""


class SimulationError(OffloadError):
    """A network trace, device profile or set of outcomes that a simulation cannot use."""
