"""The pages of figures say what was measured."""

import json
from pathlib import Path
from typing import Any

import click
import pytest

from edge_runtime.evaluation.problems.testset import PROBLEMS_TEST
from tools.train import page, ship

IDS = [{"name": "a", "messages": [], "prompt": "<s><|problem|><|say|>1+1?<|answer|>"}]


def metric(value: float | None, n: int = 100) -> dict[str, Any]:
    if value is None:
        return {"value": None, "low": None, "high": None, "n": n}
    return {"value": value, "low": value - 0.05, "high": value + 0.04, "n": n}


def scheme(
    accuracy: float, auroc: float | None = 0.9, fidelity: dict[str, float] | None = None
) -> dict[str, Any]:
    frames = {
        "intent_accuracy": metric(accuracy + 0.05),
        "frame_accuracy": metric(accuracy),
        "valid_json": metric(1.0),
        "auroc_mean_logprob": metric(auroc),
    }
    problems = {
        "accuracy": metric(accuracy - 0.1, 600),
        "well_formed": metric(0.99, 600),
        **{f"accuracy_steps_{i}": metric(accuracy - 0.05 * i) for i in range(1, 7)},
        "accuracy_kind_rate": metric(0.7, 40),
        "auroc_mean_logprob": metric(auroc, 600),
        "auroc_answer.min_logprob": metric(auroc, 600),
    }
    oos = {
        "none_rate_out_of_scope": metric(0.5),
        "none_rate_in_domain": metric(0.01),
        "auroc_verdict_mean_logprob": metric(0.8),
    }
    suites = {
        "hwu64": frames,
        "ha_intents": frames,
        "problems": problems,
        "problems, no task asked": problems,
        "oos": oos,
    }
    entry = {"package_bytes": 4_000_000, "identity": "x", "suites": suites}
    return entry | ({"fidelity": fidelity} if fidelity else {})


FIDELITY = {"kl_mean": 1e-4, "kl_p99": 2e-3, "top1_agreement": 0.9987, "perplexity_ratio": 1.001}
MEASURED: dict[str, Any] = {
    "pocket": {
        "model": "pocket",
        "problems_sha256": PROBLEMS_TEST.sha256,
        "schemes": {"fp32": scheme(0.61), "int8": scheme(0.6, 0.89, FIDELITY)},
    },
    "pocket-cloud": {
        "model": "pocket-cloud",
        "problems_sha256": PROBLEMS_TEST.sha256,
        "schemes": {"fp32": scheme(0.9), "int8": scheme(0.88, None, FIDELITY)},
    },
}
SHIPPED = {"pocket": "int8", "pocket-cloud": "int8"}


def test_tables_hold_value_and_interval_of_every_variant() -> None:
    text = page.figures_text(MEASURED, SHIPPED)
    assert "The installation has `pocket` as `int8` and `pocket-cloud` as `int8`" in text
    assert "| rows | metric | n | pocket fp32, % | pocket int8, % | pocket-cloud fp32, % | pocket" in text
    assert (
        "| hwu64 | frame accuracy | 100 | 61.0 (56.0–65.0) | 60.0 (55.0–64.0) | 90.0 (85.0–94.0) "
        "| 88.0 (83.0–92.0) |" in text
    )
    assert "| problems | right answer | 600 | 51.0 (46.0–55.0) |" in text
    assert "| 6 | 100 | 31.0 (26.0–35.0) |" in text
    assert "| rate | 40 | 70.0 (65.0–74.0) | 70.0 (65.0–74.0) |" in text
    assert "| problems | answer.min_logprob | 600 | 0.890 (0.840–0.930) | – |" in text
    assert "| pocket-cloud | int8 | 4.0 | 1.0e-04 | 2.0e-03 | 99.87 | 1.0010 |" in text


def test_one_model_alone_has_a_page_too() -> None:
    text = page.figures_text({"pocket": MEASURED["pocket"]}, SHIPPED)
    assert "The installation has `pocket` as `int8`;" in text
    assert "| rows | metric | n | fp32, % | int8, % |" in text


def test_a_figure_that_is_not_defined_is_a_dash() -> None:
    assert page.show(metric(None)) == page.show_auroc(metric(None)) == page.show(None) == "–"


def test_figures_are_written_between_the_markers_and_nowhere_else(tmp_path: Path) -> None:
    target = tmp_path / "page.md"
    target.write_text(f"before\n{ship.BEGIN}\nold\n{ship.END}\nafter\n", encoding="utf-8")
    ship.fill(target, "new")
    ship.fill(target, "newer")
    assert target.read_text(encoding="utf-8") == f"before\n{ship.BEGIN}\n\nnewer\n\n{ship.END}\nafter\n"
    target.write_text("no markers", encoding="utf-8")
    with pytest.raises(click.ClickException, match="has no lines"):
        ship.fill(target, "new")


@pytest.mark.parametrize("model", ["pocket", "pocket-cloud"])
@pytest.mark.parametrize("chosen", ["int8", "fp32"])
def test_the_card_names_data_licences_figures_and_recipe(tmp_path: Path, model: str, chosen: str) -> None:
    shape = {"layers": 4, "hidden": 256, "heads": 8, "kv_heads": 4, "ffn": 768}
    config = {"seed": 20, "model": shape, "dtype": "bfloat16", "workers": 2, "validation_rows": 600}
    (tmp_path / "config.json").write_text(json.dumps({**config, "matrix_rate": 0.02, "grow_from": "pocket"}))
    summary = {"parameters": 3_900_000, "vocabulary": 2970, "tokens": 7_000_000, "minutes": 48.0}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    card = ship.card_text(model, tmp_path, MEASURED, chosen)
    assert card.startswith("---\nlicense: apache-2.0\n")
    value = MEASURED[model]["schemes"][chosen]["suites"]["hwu64"]["frame_accuracy"]
    for words in (
        f"# {model}\n",
        "CC BY 4.0",
        "CC BY 3.0",
        "Liu",
        "Larson",
        "3.9 million",
        page.show(value),
        f"misses {100 * (1 - value['value']):.0f} %",
        "Muon",
        "bfloat16 arithmetic",
        "It began as the trained `pocket`",
        "7.0 million tokens in 48 minutes",
    ):
        assert words in card
    plain = card.replace('{"intent"', "").replace('"slots":{', "").replace('"}}', "")
    assert "{" not in plain


def test_a_share_over_several_metrics_weighs_them_by_their_rows() -> None:
    assert ship.mean_share([metric(1.0, 300), metric(0.0, 100)]) == "75"


def test_token_ids_of_the_vectors_are_written_by_the_shipped_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    path, file = tmp_path / "prompts.json", ship.PACKAGES / "pocket" / "tokenizer.json"
    path.write_text(json.dumps(IDS), encoding="utf-8")
    ship.write_ids(file, path)
    row = json.loads(path.read_text(encoding="utf-8"))[0]
    assert {k: row[k] for k in IDS[0]} == IDS[0]
    assert Tokenizer.from_file(str(file)).decode(row["ids"], skip_special_tokens=False) == IDS[0]["prompt"]


def test_measured_models_are_found_and_outdated_figures_refused(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match=r"has no MODEL/measured\.json"):
        ship.read_measured(tmp_path)
    for name, value in MEASURED.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "measured.json").write_text(json.dumps(value))
    assert ship.read_measured(tmp_path) == MEASURED
    old = {**MEASURED["pocket"], "problems_sha256": "0" * 64}
    (tmp_path / "pocket" / "measured.json").write_text(json.dumps(old))
    with pytest.raises(
        click.ClickException, match="figures of pocket are of another test set of word problems"
    ):
        ship.read_measured(tmp_path)


def test_the_scheme_of_a_package_is_read_from_it(tmp_path: Path) -> None:
    (tmp_path / "packages" / "pocket").mkdir(parents=True)
    manifest = {"quantization": {"scheme": "fp32"}}
    (tmp_path / "packages" / "pocket" / "manifest.json").write_text(json.dumps(manifest))
    assert ship.shipped_schemes(MEASURED, tmp_path / "packages") == {"pocket": "fp32", "pocket-cloud": "int8"}


def test_a_scheme_that_was_not_measured_is_not_shipped(tmp_path: Path) -> None:
    (tmp_path / "pocket").mkdir()
    (tmp_path / "pocket" / "measured.json").write_text(json.dumps(MEASURED["pocket"]))
    for model, scheme in (("pocket", "int4"), ("pocket-cloud", "int8")):
        with pytest.raises(click.ClickException, match=f"has no figures of {model} in {scheme}: run measure"):
            ship.ship(model, tmp_path, tmp_path, tmp_path, scheme, tmp_path / "out")


def test_the_pictures_are_drawn(tmp_path: Path) -> None:
    mpl = pytest.importorskip(
        "matplotlib", reason="matplotlib is not installed: pip install 'edge-runtime[plot]'"
    )
    mpl.use("Agg")
    for draw in (page.draw_accuracy, page.draw_problems):
        draw(MEASURED, SHIPPED, tmp_path / "images" / "a.png")
        assert (tmp_path / "images" / "a.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "images" / "a.png").unlink()
