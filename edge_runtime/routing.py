"""From the configuration to the router: policy, budgets, and the file of a certificate.

Knows: `[router]` and `[budget]`, and where a certificate lies. Does not know: how a decision is made
(`offload.router`), or who could be asked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edge_runtime.errors import ConfigError
from offload.budget import Limit
from offload.calibration import Calibration
from offload.context import Strategy
from offload.errors import GuaranteeError, OffloadError
from offload.guarantee import Certificate
from offload.policy import Policy, Preference, policy_from

if TYPE_CHECKING:
    from offload.calibrate import Labelled

__all__ = ["Certified", "Routing", "confidence_of", "read_certified", "routing_of", "write_certified"]

FORMAT = 1
HOUR = 3600.0
_FROM_FILE = ("certificate", "certified_calibration")
"""Fields of the policy that come out of the certificate's file."""


class _Settings(Protocol):
    @property
    def path(self) -> Path | None: ...

    def get(self, section: str, key: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class Certified:
    """The file of a certificate: what is promised, and about which confidences of which model."""

    certificate: Certificate
    calibration_id: str
    model_id: str
    data_sha256: str


@dataclass(frozen=True, slots=True)
class Routing:
    """What the configuration says about routing."""

    policy: Policy = field(default_factory=Policy)
    limits: tuple[Limit, ...] = ()
    prefer: Preference = "auto"
    early_stop: bool = True
    context: Strategy = "auto"
    context_turns: int = 4


def routing_of(config: _Settings) -> Routing:
    """Read `[router]` and `[budget]`. A relative path of a certificate starts at the configuration's folder.

    Raises:
        ConfigError: a setting cannot be followed, or the certificate cannot be read; names the file.
    """

    def router(key: str) -> Any:
        return config.get("router", key)

    where = "the defaults" if config.path is None else str(config.path)
    settings = {f.name: router(f.name) for f in fields(Policy) if f.name not in _FROM_FILE}
    try:
        certificate = None
        if router("certificate"):
            folder = Path() if config.path is None else config.path.parent
            certified = read_certified(folder / Path(router("certificate")).expanduser())
            certificate, settings["certified_calibration"] = certified.certificate, certified.calibration_id
        policy = policy_from(settings, certificate)
        limits = _limits(config)
    except OffloadError as error:
        raise ConfigError(f"{where}: [router] and [budget]: {error}") from error
    return Routing(
        policy,
        limits,
        router("prefer"),
        router("early_stop"),
        router("context"),
        router("context_turns"),
    )


def _limits(config: _Settings) -> tuple[Limit, ...]:
    from offload.budget import Budgets

    def budget(key: str) -> Any:
        return config.get("budget", key)

    limits = []
    if budget("escalated_share") is not None:
        limits.append(
            Limit("escalated_share", "queries", budget("escalated_share"), budget("escalated_window"))
        )
    if budget("cost") is not None:
        limits.append(Limit("cost", "cost", budget("cost"), budget("cost_window_h") * HOUR))
    if budget("traffic_mb") is not None:
        limits.append(
            Limit("traffic_mb", "bytes", budget("traffic_mb") * 1e6, budget("traffic_window_h") * HOUR)
        )
    if budget("energy_wh") is not None:
        limits.append(
            Limit("energy_wh", "joules", budget("energy_wh") * HOUR, budget("energy_window_h") * HOUR)
        )
    Budgets(limits)  # refuses what cannot be followed
    return tuple(limits)


def confidence_of(calibration: Calibration, rows: Iterable[Labelled]) -> list[float]:
    """The calibrated confidence of each row; NaN where there is none, which is never kept."""
    entries = {entry.kind: entry for entry in calibration.entries}
    found = []
    for row in rows:
        entry = entries.get(row.kind) or entries.get(row.kind.partition("/")[0])
        p = None if entry is None else entry.probability(row.evidence)
        found.append(math.nan if p is None else p)
    return found


def write_certified(path: Path, certified: Certified) -> None:
    """Write the file, whole or not at all."""
    value = {
        "format": FORMAT,
        "model": certified.model_id,
        "calibration": certified.calibration_id,
        "data_sha256": certified.data_sha256,
        "certificate": certified.certificate.to_dict(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def read_certified(path: Path) -> Certified:
    """Read what `edge-runtime certify` wrote.

    Raises:
        GuaranteeError: it cannot be read or is no certificate; names the file.
    """
    again = "Make one with: edge-runtime certify"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GuaranteeError(
            f"certificate {path} cannot be read: {error.strerror or error}. {again}"
        ) from error
    except ValueError as error:
        raise GuaranteeError(f"certificate {path} is not valid JSON: {error}. {again}") from error
    version = data.get("format") if isinstance(data, dict) else None
    if version != FORMAT:
        raise GuaranteeError(
            f"certificate {path}: 'format' is {version!r}, this release reads {FORMAT}. {again}"
        )
    missing = [key for key in ("model", "calibration", "data_sha256", "certificate") if key not in data]
    if missing:
        raise GuaranteeError(f"certificate {path} has no '{missing[0]}'. {again}")
    try:
        certificate = Certificate.from_dict(data["certificate"])
    except GuaranteeError as error:
        raise GuaranteeError(f"certificate {path}: {error}. {again}") from error
    return Certified(certificate, str(data["calibration"]), str(data["model"]), str(data["data_sha256"]))
