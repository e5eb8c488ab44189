"""Where the calibration of a package lies, and whether it belongs to it.

The user's own wins: `edge-runtime/calibration/<SHA-256 of manifest.json>.json` in the XDG state folder.
Otherwise the package's, the listed file `calibration.json`. Knows: packages and folders. Does not know: what
a calibration says (`offload.calibration`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from model_zoo import Manifest
from offload.calibration import FILE_NAME, Calibration, Fingerprint

if TYPE_CHECKING:
    from edge_runtime.model import LoadedModel

__all__ = ["find_calibration", "fingerprint", "user_file"]

TEMPLATE_FILE = "chat_template.jinja"
WITHOUT_INFLUENCE = (FILE_NAME, TEMPLATE_FILE, "LICENSE", "NOTICE")
"""Files that do not take part in computing an answer from its prompt, besides texts (`.md`, `.txt`)."""


def fingerprint(manifest: Manifest) -> Fingerprint:
    """What a calibration of this package depends on.

    The manifest's own hash will not do: it changes when the calibration is put into the package.
    """
    files = {
        name: entry.sha256
        for name, entry in manifest.files.items()
        if name not in WITHOUT_INFLUENCE and not name.endswith((".md", ".txt"))
    }
    template = manifest.files.get(TEMPLATE_FILE)
    return Fingerprint(
        model=_digest(files),
        quantization=_digest(asdict(manifest.quantization)),
        template=hashlib.sha256(b"").hexdigest() if template is None else template.sha256,
    )


def user_file(manifest_sha256: str, state: Path | None = None) -> Path:
    """Where the user's own calibration of a package goes; `state` is the XDG state folder by default."""
    if state is None:
        import platformdirs

        state = platformdirs.user_state_path("edge-runtime", appauthor=False)
    return state / "calibration" / f"{manifest_sha256}.json"


def find_calibration(model: LoadedModel, state: Path | None = None) -> Calibration | None:
    """The calibration of an opened model; `None` when it has none.

    Raises:
        offload.errors.CalibrationError: there is one that cannot be read or belongs to another model.
    """
    manifest, folder = model.manifest, model.path
    if manifest is None or folder is None or model.manifest_sha256 is None:
        return None
    own = user_file(model.manifest_sha256, state)
    if own.is_file():
        found = Calibration.load(own)
    elif FILE_NAME in manifest.files:
        found = Calibration.load(folder / FILE_NAME)
    else:
        return None
    found.check(fingerprint(manifest))
    return found


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
