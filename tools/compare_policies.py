"""Compare routing policies on simulated fleets, and measure learning from feedback and watching for drift.

    python tools/compare_policies.py [--outcomes FILE] [--quick] [--out FOLDER]

Writes `simulation.json` and pictures into the folder, and the tables into its `simulation.md`. Without
outcomes the queries come from a generated population. Training the agents needs torch (the extra `train`) and
takes most of the time; `--agent-seconds 0` leaves them out, and `--policies-only` renews the other policies
and takes the agents', learning's and drift's figures from the folder's `simulation.json`, provided that it
was made on the same episodes. Everything is seeded; only the agents' training depends on how far it gets in
its seconds."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from offload.evaluate.metrics import auroc
from offload.outcomes import read_outcomes
from offload.simulate import ModelSize, synthetic_pool
from tools.simulation.fleet import Study, agents, boards, fleets, formula_table, recorded_pools
from tools.simulation.learning import EPSILON, drift_study, online_study
from tools.simulation.report import draw, fill, recorded_tables, tables


@click.command(context_settings={"max_content_width": 110})
@click.option(
    "--outcomes", type=click.Path(path_type=Path), help="Recorded outcomes of a pair of models (JSONL)."
)
@click.option(
    "--signal", default="mean_logprob", show_default=True, help="Signal behind recorded confidences."
)
@click.option("--parameters", default=0.49e9, show_default=True, help="Parameters of the device's model.")
@click.option(
    "--weight-bytes", default=0.398e9, show_default=True, help="Bytes of its weights read per token."
)
@click.option("--devices", default=200, show_default=True, help="Devices of a fleet.")
@click.option("--queries", default=100, show_default=True, help="Queries per device.")
@click.option(
    "--agent-seconds", default=75.0, show_default=True, help="Training time of each agent; 0: none."
)
@click.option(
    "--agent-runs", default=100, show_default=True, help="Most runs of a PPO agent (A2C: three times)."
)
@click.option("--seeds", default=20, show_default=True, help="Seeds of the studies of learning and drift.")
@click.option("--seed", default=0, show_default=True)
@click.option("--policies-only", is_flag=True, help="Renew the policies, keep agents, learning and drift.")
@click.option("--quick", is_flag=True, help="A few devices, seeds and queries: does it run?")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("docs"), show_default=True
)
def main(
    outcomes: Path | None,
    signal: str,
    parameters: float,
    weight_bytes: float,
    devices: int,
    queries: int,
    agent_seconds: float,
    agent_runs: int,
    seeds: int,
    seed: int,
    policies_only: bool,
    quick: bool,
    out: Path,
) -> None:
    begun = time.monotonic()

    def report(text: str) -> None:
        click.echo(f"{time.monotonic() - begun:6.0f} s  {text}", err=True)

    if quick:
        devices, queries, seeds, agent_runs = 12, 12, 2, min(agent_runs, 2)
    former = json.loads((out / "simulation.json").read_text(encoding="utf-8")) if policies_only else None
    if former is not None:
        agent_seconds = 0
    if outcomes is None:
        source = "generated: 60 % right on the device, 93 % in the cloud"
        fit, test = synthetic_pool(8_000, seed + 1).split(0.5, seed)
    else:
        rows = read_outcomes(outcomes)
        told = sum(row.evidence is not None for row in rows)
        source = f"{outcomes.stem}: {len(rows)} rows, {told} of them with evidence ({signal})"
        fit, test = recorded_pools(rows, signal, seed)
    study = Study(fit, test, ModelSize(parameters, weight_bytes), devices, queries, seed)
    trained = agents(study, agent_runs, agent_seconds, report) if agent_seconds > 0 else {True: [], False: []}
    figures: dict[str, Any] = {
        "source": source,
        "rows": {"fit": len(fit), "test": len(test)},
        "device_right": float(test.weak.mean()),
        "cloud_right": float(test.strong.mean()),
        "auroc": auroc(test.confidence, test.weak),
        "devices": devices,
        "queries": queries,
        "budget_per_device": study.budget,
        "fleet": fleets(study, trained, report),
        "boards": boards(study),
        "agents": [
            {
                "name": name,
                "limited": limited,
                "runs": t.runs,
                "queries": t.runs * 64 * queries,
                "seconds": round(t.seconds, 1),
                "multiplier": round(t.multiplier, 3),
                "curve": np.round(t.curve, 4).tolist(),
            }
            for limited, made in trained.items()
            for t, name in made
        ],
    }
    report("fleets done")
    (out / "images").mkdir(parents=True, exist_ok=True)
    if outcomes is not None:
        _write(out, "simulation_recorded.json", figures, recorded_tables(figures))
        report("written")
        return
    if former is not None:
        figures = renewed(former, figures)
        draw(figures, {}, EPSILON, out / "images")
        _write(out, "simulation.json", figures, tables(figures))
        report("written")
        return
    online, curves = online_study(400 if quick else 5_000, seeds)
    report("learning done")
    drift = drift_study(seeds, 2_000, 100 if quick else 1_000)
    report("drift done")
    figures |= {"formula": formula_table(), "online": online, "drift": drift}
    draw(figures, curves, EPSILON, out / "images")
    _write(out, "simulation.json", figures, tables(figures))
    report("written")


def renewed(former: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    """The figures of a run without agents, completed by those of a former run on the same episodes.

    Raises:
        click.ClickException: the episodes are others: what came of a policy without choices differs.
    """
    blind = ("local only", "cloud only", "cloud until the budget ends", "random", "hindsight")

    def known(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row for row in rows if row["policy"] in blind]

    if known(former["fleet"]) != known(figures["fleet"]):
        raise click.ClickException(
            "simulation.json was made on other episodes (options, devices or the world have changed): run "
            "without --policies-only"
        )
    now = {(r["budget"], r["link"], r["policy"]): r for r in figures["fleet"]}
    fleet = [now.get((r["budget"], r["link"], r["policy"]), r) for r in former["fleet"]]
    return former | figures | {"fleet": fleet, "agents": former["agents"]}


def _write(out: Path, name: str, figures: dict[str, Any], made: dict[str, str]) -> None:
    (out / name).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    page = out / "simulation.md"
    if page.exists():
        page.write_text(fill(page.read_text(encoding="utf-8"), made), encoding="utf-8")
    else:
        click.echo("\n".join(f"{name}\n\n{table}" for name, table in made.items()))


if __name__ == "__main__":
    main()
