"""A calibration: for one model, what its evidence is worth, as a file that applies with numpy alone.

Knows: the file, which entry belongs to an answer, and when a calibration must not be used. Does not know: how
one is fitted (`offload.calibrate`), where the files lie (`edge_runtime.calibration`).

Tasks are not pooled: the same log-probability means one thing in a frame of a smart home and another in a
worked solution. An entry belongs to a *kind* of answer, read from the answer itself (`offload.spans`), since
in use nobody says which test set a query comes from. `docs/confidence.md` documents the format.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from offload.calibrators import CALIBRATORS, Calibrator, Logistic, Trees, scaled_value
from offload.confidence import DEFAULT_SIGNAL, EXTRA, PROBES, SIGNALS, not_whole, problem_with, signal_value
from offload.errors import CalibrationError
from offload.spans import Form, read
from offload.types import Confidence, Evidence

__all__ = ["FILE_NAME", "FORMAT", "MAX_BYTES", "Calibration", "Entry", "Fingerprint", "form_of"]

FORMAT = 1
FILE_NAME = "calibration.json"
MAX_BYTES = 8 * 1024 * 1024
"""A longer file is refused before it is parsed."""

AGAIN = "Make one for this model with: edge-runtime calibrate"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a calibration depends on, SHA-256 each as 64 hexadecimal digits.

    `model`: the files that compute (graph, weights, tokenizer); `quantization`: how the weights are stored;
    `template`: the chat template. What has no influence on an answer (card, licence, figures) is not in it.
    """

    model: str
    quantization: str
    template: str


@dataclass(frozen=True, slots=True)
class Entry:
    """The calibration of one kind of answer.

    Args:
        kind: `frame`, `solution`, `text`, or a family such as `frame/hass` (`offload.spans.Reading.kind`).
        signals: names of `offload.confidence.SIGNALS`: one for most methods, several for a combiner.
        n: rows it was fitted on, `n_correct` of them right.
        figures: cross-validated on those rows (`brier`, `auroc`, `ece`, `ece_floor`).
    """

    kind: str
    signals: tuple[str, ...]
    calibrator: Calibrator
    n: int
    n_correct: int
    figures: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What `Confidence.signal` says: the signal, or the combiner's method and its number of signals."""
        if len(self.signals) == 1:
            return self.signals[0]
        return f"{self.calibrator.method}({len(self.signals)} signals)"

    @property
    def single(self) -> bool:
        """Whether one signal alone decides, so that the probability never falls while it rises."""
        return not isinstance(self.calibrator, Logistic | Trees)

    def probability(self, evidence: Evidence) -> float | None:
        """P(right), strictly between 0 and 1; `None` where the answer is cut short or a signal is missing."""
        if not_whole(evidence) is not None:
            return None
        poor = problem_with(evidence) is not None
        row = []
        for name in self.signals:
            value = None if poor and name not in EXTRA else SIGNALS[name](evidence)
            if value is None or not math.isfinite(value):
                return None
            row.append(scaled_value(name, value))
        p = float(self.calibrator(np.array([row]))[0])
        return p if math.isfinite(p) else None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "kind": self.kind,
            "signals": list(self.signals),
            "method": self.calibrator.method,
            "parameters": self.calibrator.parameters(),
            "n": self.n,
            "n_correct": self.n_correct,
            "figures": dict(self.figures),
        }

    @classmethod
    def from_dict(cls, data: Any) -> Entry:
        """From JSON values.

        Raises:
            ValueError: something is missing, unknown or out of range; says what.
        """
        if not isinstance(data, dict):
            raise ValueError("an entry is not an object")  # noqa: TRY004 - a wrong file, not a wrong call
        missing = {"kind", "signals", "method", "parameters", "n", "n_correct", "figures"} - set(data)
        if missing:
            raise ValueError(f"an entry has no '{min(missing)}'")
        kind, signals, method = str(data["kind"]), tuple(map(str, data["signals"])), str(data["method"])
        unknown = [name for name in signals if name not in SIGNALS]
        if unknown:
            raise ValueError(f"entry '{kind}': this release has no signal '{unknown[0]}'")
        if method not in CALIBRATORS:
            raise ValueError(f"entry '{kind}': this release has no method '{method}'")
        try:
            calibrator = CALIBRATORS[method](data["parameters"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"entry '{kind}', method '{method}': wrong parameters: {error}") from error
        inputs = 1
        if isinstance(calibrator, Logistic):
            inputs = len(calibrator.weights)
        elif isinstance(calibrator, Trees):
            inputs = max(len(signals), int(calibrator.feature.max()) + 1)
        if inputs != len(signals):
            raise ValueError(f"entry '{kind}': {len(signals)} signals for a calibrator of {inputs}")
        return cls(kind, signals, calibrator, int(data["n"]), int(data["n_correct"]), dict(data["figures"]))


@dataclass(frozen=True, slots=True)
class Calibration:
    """All entries of one model.

    Args:
        model_id: the model's name, for people; `fingerprint` decides.
        created: UTC, `2026-01-31T12:00:00Z`.
        data: what it was fitted on: `description`, `n` (rows given), `skipped` (rows whose evidence said
            nothing), `sha256` of the file when there was one.
    """

    entries: tuple[Entry, ...]
    fingerprint: Fingerprint
    model_id: str
    created: str
    data: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(init=False, default="")
    """16 hexadecimal digits of the SHA-256 over the content: equal ids mean equal calibrations."""

    def __post_init__(self) -> None:
        digest = hashlib.sha256(_dump(self._content()).encode()).hexdigest()
        object.__setattr__(self, "id", digest[:16])

    @property
    def probes(self) -> tuple[str, ...]:
        """Signals in use that cost further passes of the model."""
        used = {name for entry in self.entries for name in entry.signals}
        return tuple(name for name in PROBES if name in used)

    def entry(self, evidence: Evidence, text: str | None = None) -> Entry | None:
        """The entry for an answer: of its family, else of its form; `None` for a form that has none."""
        kind: str = form_of(evidence) if text is None else read(text).kind
        for wanted in (kind, kind.partition("/")[0]):
            for entry in self.entries:
                if entry.kind == wanted:
                    return entry
        return None

    def apply(self, evidence: Evidence, text: str | None = None) -> float | None:
        """P(right), or `None` where nothing can be said: poor evidence, a kind without an entry.

        Args:
            text: the answer; without it the kind is told from the evidence's spans, families excepted.
        """
        entry = self.entry(evidence, text)
        return None if entry is None else entry.probability(evidence)

    def confidence(self, evidence: Evidence, text: str | None = None) -> Confidence:
        """As `apply`, with the signal, the calibration's id, and why there is no probability."""
        entry = self.entry(evidence, text)
        if entry is None:
            kind = form_of(evidence) if text is None else read(text).kind
            known = ", ".join(e.kind for e in self.entries)
            reason = f"the calibration has no entry for an answer of kind '{kind}'; it has: {known}"
            return Confidence(None, DEFAULT_SIGNAL, self.id, signal_value(DEFAULT_SIGNAL, evidence), reason)
        p = entry.probability(evidence)
        raw = signal_value(entry.signals[0], evidence) if len(entry.signals) == 1 else None
        why: str | None = None
        if p is None:
            lacking = next((n for n in entry.signals if signal_value(n, evidence) is None), entry.signals[0])
            why = not_whole(evidence) or problem_with(evidence) or f"the evidence has no {lacking}"
        return Confidence(p, entry.label, self.id, raw, why)

    def check(self, fingerprint: Fingerprint) -> None:
        """Refuse a calibration of another model, quantization or template.

        Raises:
            CalibrationError: names what differs.
        """
        told = {
            "model": "the model's files are others",
            "quantization": "the weights are quantized in another way",
            "template": "the chat template is another, so prompts differ",
        }
        mine, theirs = asdict(self.fingerprint), asdict(fingerprint)
        different = [name for name in told if mine[name] != theirs[name]]
        if different:
            what = "; ".join(
                f"{told[name]} ({mine[name][:12]}… in the calibration, {theirs[name][:12]}… here)"
                for name in different
            )
            raise CalibrationError(
                f"the calibration {self.id} of '{self.model_id}' does not belong to this model: {what}. "
                f"{AGAIN}"
            )

    def to_json(self) -> str:
        """The file's text: equal calibrations give equal bytes."""
        return _dump({"id": self.id, **self._content()})

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        temporary.write_text(self.to_json(), encoding="utf-8")
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read a file.

        Raises:
            CalibrationError: it cannot be read, or is no calibration that this release understands.
        """
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise CalibrationError(f"{path}: cannot be read: {error.strerror or error}") from error
        return cls.from_json(raw, where=str(path))

    @classmethod
    def from_json(cls, raw: str | bytes, *, where: str = FILE_NAME) -> Calibration:
        """As `load`, from the file's content."""
        if len(raw) > MAX_BYTES:
            raise CalibrationError(f"{where}: has more than {MAX_BYTES} bytes, which is refused. {AGAIN}")
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise CalibrationError(f"{where}: is not valid JSON: {error}. {AGAIN}") from error
        version = data.get("format") if isinstance(data, dict) else None
        if version != FORMAT:
            raise CalibrationError(
                f"{where}: 'format' is {version!r} and this release reads {FORMAT}. {AGAIN}, or upgrade"
            )
        try:
            found = cls(
                tuple(Entry.from_dict(entry) for entry in data["entries"]),
                Fingerprint(**{key: str(data["fingerprint"][key]) for key in Fingerprint.__slots__}),
                str(data["model"]),
                str(data["created"]),
                dict(data["data"]),
            )
        except KeyError as error:
            raise CalibrationError(f"{where}: has no {error}. {AGAIN}") from error
        except (TypeError, ValueError) as error:
            raise CalibrationError(f"{where}: {error}. {AGAIN}") from error
        kinds = [entry.kind for entry in found.entries]
        if not kinds or len(set(kinds)) != len(kinds):
            raise CalibrationError(f"{where}: needs one entry per kind, but has {kinds}. {AGAIN}")
        if raw != (found.to_json() if isinstance(raw, str) else found.to_json().encode()):
            raise CalibrationError(
                f"{where}: was changed after it was written: its content gives the id {found.id} and it says "
                f"{data.get('id')!r}, or it is not laid out as calibrations are written. {AGAIN}"
            )
        return found

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "model": self.model_id,
            "fingerprint": asdict(self.fingerprint),
            "created": self.created,
            "data": dict(self.data),
            "entries": [entry.to_dict() for entry in self.entries],
        }


def form_of(evidence: Evidence) -> Form:
    """The form of the answer that the evidence was folded from, as its spans show it."""
    if "keys" in evidence.spans:
        return "frame"
    return "solution" if "answer" in evidence.spans else "text"


def _dump(data: Mapping[str, Any] | Sequence[Any]) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
