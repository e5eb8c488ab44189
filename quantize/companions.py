"""What goes into a package beside the weights: tokenizer, chat template, licence, generation settings.

This module reads small files of a checkpoint folder; it does not know weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantize.checkpoint import Checkpoint, read_json
from quantize.errors import CheckpointError

__all__ = ["LicenceFiles", "chat_template", "generation_settings", "licence_of", "tokenizer_file"]

_LICENCE_NAMES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "COPYING")
_CARD_NAMES = ("MODEL_CARD.md", "README.md")
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


@dataclass(frozen=True)
class LicenceFiles:
    """What the checkpoint says about its licence, and the files (name in the package → where it lies) that
    say it."""

    id: str
    name: str | None = None
    url: str | None = None
    files: Mapping[str, Path] = field(default_factory=dict)


def tokenizer_file(folder: Path) -> Path:
    """Path of tokenizer.json.

    Raises:
        CheckpointError: there is none.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing. A checkpoint with another tokenizer format can be converted: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    return path


def chat_template(folder: Path) -> str | None:
    """The chat template (jinja source), or None: chat_template.jinja, else tokenizer_config.json's, else
    .json's.

    Raises:
        CheckpointError: one of the files cannot be read.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    for file in ("tokenizer_config.json", "chat_template.json"):
        if (folder / file).is_file():
            template = read_json(folder / file).get("chat_template")
            if isinstance(template, str):
                return template
            if isinstance(template, list):
                named = {
                    entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)
                }
                if isinstance(named.get("default"), str):
                    return str(named["default"])
    return None


def generation_settings(checkpoint: Checkpoint) -> tuple[dict[str, list[int]], dict[str, float]]:
    """({"eos": ids, "bos": ids, "pad": ids}, sampling defaults); generation_config.json wins over
    config.json.

    Raises:
        CheckpointError: generation_config.json cannot be read.
    """
    path = checkpoint.folder / "generation_config.json"
    own = read_json(path) if path.is_file() else {}
    text = checkpoint.config.get("text_config") or {}
    ids: dict[str, list[int]] = {}
    for kind in ("eos", "bos", "pad"):
        key = f"{kind}_token_id"
        value: Any = next(
            (place[key] for place in (own, checkpoint.config, text) if place.get(key) is not None), []
        )
        ids[kind] = [int(item) for item in value] if isinstance(value, list) else [int(value)]
    # Without do_sample the publisher means greedy decoding, and the other numbers are leftovers.
    sampling = own if own.get("do_sample") else {}
    return ids, {key: sampling[key] for key in _SAMPLING if isinstance(sampling.get(key), (int, float))}


def licence_of(folder: Path) -> LicenceFiles:
    """The licence as the model card's front matter names it, with the files to take along."""
    files: dict[str, Path] = {}
    for target, names in (("LICENSE", _LICENCE_NAMES), ("MODEL_CARD.md", _CARD_NAMES)):
        found = next((folder / name for name in names if (folder / name).is_file()), None)
        if found is not None:
            files[target] = found
    card = files.get("MODEL_CARD.md")
    front = _front_matter(card.read_text(encoding="utf-8", errors="replace")) if card else {}
    url = front.get("license_link", "")
    return LicenceFiles(
        id=front.get("license") or ("see LICENSE" if "LICENSE" in files else "unknown"),
        name=front.get("license_name"),
        url=url if re.match(r"https?://", url) else None,
        files=files,
    )


def _front_matter(text: str) -> dict[str, str]:
    """The plain `key: value` lines of a model card's YAML header."""
    match = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    pairs: dict[str, Any] = {}
    for line in match.group(1).splitlines() if match else []:
        found = re.match(r"([A-Za-z_]+):\s*(\S.*?)\s*$", line)
        if found:
            pairs[found.group(1)] = found.group(2).strip("'\"")
    return pairs
