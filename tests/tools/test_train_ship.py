"""The pages of figures say what was measured."""

import json
from pathlib import Path

import click
import pytest

from tools.train import ship


def metric(value: float | None, n: int = 100) -> dict:
    if value is None:
        return {"value": None, "low": None, "high": None, "n": n}
    return {"value": value, "low": value - 0.05, "high": value + 0.04, "n": n}


def scheme(accuracy: float, auroc: float | None, fidelity: dict | None = None) -> dict:
    frames = {
        "intent_accuracy": metric(accuracy + 0.05),
        "frame_accuracy": metric(accuracy),
        "valid_json": metric(1.0),
        "auroc_mean_logprob": metric(auroc),
    }
    oos = {"none_rate_out_of_scope": metric(0.5), "auroc_verdict_mean_logprob": metric(0.8)}
    suites = {"hwu64": frames, "ha_intents": frames, "oos": oos}
    return {"package_bytes": 4_000_000, "suites": suites} | ({"fidelity": fidelity} if fidelity else {})


FIDELITY = {"kl_mean": 1e-4, "kl_p99": 2e-3, "top1_agreement": 0.9987, "perplexity_ratio": 1.001}
SCHEMES = {"fp32": scheme(0.61, 0.9), "int8": scheme(0.6, 0.89, FIDELITY)}


def test_tables_hold_value_and_interval_of_every_scheme() -> None:
    text = ship.figures_text(SCHEMES, "int8")
    assert "The shipped package is `int8`." in text
    assert "| hwu64 | frame accuracy | 100 | 61.0 (56.0–65.0) | 60.0 (55.0–64.0) |" in text
    assert "| hwu64 | mean_logprob | 0.900 (0.850–0.940) | 0.890 (0.840–0.930) |" in text
    assert "| int8 | 4.0 | 1.0e-04 | 2.0e-03 | 99.87 | 1.0010 |" in text


def test_a_figure_that_is_not_defined_is_a_dash() -> None:
    assert ship.show(metric(None)) == ship.show_auroc(metric(None)) == "–"


def test_figures_are_written_between_the_markers_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{ship.BEGIN}\nold\n{ship.END}\nafter\n", encoding="utf-8")
    ship.fill(page, "new")
    ship.fill(page, "newer")
    assert page.read_text(encoding="utf-8") == f"before\n{ship.BEGIN}\n\nnewer\n\n{ship.END}\nafter\n"
    page.write_text("no markers", encoding="utf-8")
    with pytest.raises(click.ClickException, match="has no lines"):
        ship.fill(page, "new")


def test_the_card_names_data_licences_and_figures(tmp_path: Path) -> None:
    model = {"layers": 4, "hidden": 256, "heads": 8, "kv_heads": 4, "ffn": 768}
    (tmp_path / "config.json").write_text(json.dumps({"seed": 20, "model": model}))
    summary = {"parameters": 3_900_000, "vocabulary": 2970, "tokens": 7_000_000, "minutes": 48.0}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    card = ship.card_text(tmp_path, SCHEMES, "int8")
    assert card.startswith("---\nlicense: apache-2.0\n")
    for words in (
        "CC BY 4.0",
        "CC BY 3.0",
        "Liu",
        "Larson",
        "3.9 million",
        "60.0 (55.0–64.0)",
        "misses 40 %",
    ):
        assert words in card
    assert "{" not in card.replace('{"intent"', "").replace('"slots":{', "")


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'edge-runtime[plot]'")
    ship.draw({"fp32": scheme(0.6, None), "int8": scheme(0.6, 0.9, FIDELITY)}, tmp_path / "images" / "a.png")
    assert (tmp_path / "images" / "a.png").read_bytes().startswith(b"\x89PNG")
