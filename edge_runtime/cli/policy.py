"""`edge-runtime policy`: check the rules about where queries may go, explain a verdict, test cases."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.cli.output import current_config, emit_json, json_option, print_table, status
from edge_runtime.errors import DataError

if TYPE_CHECKING:
    from offload.residency import Verdict

__all__ = ["command"]


@click.group("policy")
def command() -> None:
    """Where queries may go: check the rules, explain a verdict, test cases."""


@command.command("check")
@click.option("--strict", is_flag=True, help="A warning ends with 1.")
@json_option
@click.pass_context
def _check(ctx: click.Context, strict: bool, as_json: bool) -> None:
    """Check the rules of the configuration; warn about those that can never matter."""
    from edge_runtime.residency import residency_of
    from offload.residency import warnings_of

    found = residency_of(current_config())
    warnings = warnings_of(found.policy, found.location)
    if as_json:
        rows = [{"kind": w.kind, "rule": w.rule, "message": w.message} for w in warnings]
        counts = {"endpoints": len(found.policy.endpoints), "rules": len(found.policy.rules)}
        looked_for = [detector.name for detector in found.detectors]
        about = {
            "policy": found.policy.id,
            **counts,
            "detectors": looked_for,
            "missing": found.without or None,
        }
        emit_json({"ok": not warnings, **about, "warnings": rows})
    else:
        for warning in warnings:
            click.echo(f"warning: {warning.message}")
        if found.without:
            click.echo(f"note: {found.without}")
        endpoints, rules = len(found.policy.endpoints), len(found.policy.rules)
        click.echo(f"endpoints: {endpoints}, rules: {rules}, warnings: {len(warnings)}")
    if warnings and strict:
        ctx.exit(1)


@command.command("explain")
@click.argument("text", required=False)
@click.option("--label", "labels", multiple=True, help="A label of the query. May be repeated.")
@click.option("--purpose", help="What the query is for.")
@click.option(
    "--consent/--no-consent", default=None, help="The user has agreed, or refused. [default: not asked]"
)
@click.option("--location", help="Country of the device. [default: that of the configuration]")
@json_option
def _explain(
    text: str | None,
    labels: tuple[str, ...],
    purpose: str | None,
    consent: bool | None,
    location: str | None,
    as_json: bool,
) -> None:
    """Say where a query with these labels may go, and which rule decides.

    TEXT is searched for what detectors find, which adds labels; - reads it from stdin.
    """
    from edge_runtime.residency import residency_of
    from offload.residency import Evaluator, Facts
    from offload.residency.detect import find

    found = residency_of(current_config())
    if text == "-":
        text = sys.stdin.read()
    findings = find(text, found.detectors) if text else []
    if text and found.without:
        status(found.without)
    facts = Facts(
        frozenset((*labels, *(f.label for f in findings))), purpose, consent, location or found.location
    )
    for label in labels:
        if not found.policy.knows(label):
            status(f"the policy does not know the label '{label}'; declare it under [residency]")
    if purpose is not None and purpose not in found.policy.purposes:
        status(f"the policy does not know the purpose '{purpose}'; it counts as none")
    verdict = Evaluator(found.policy).verdict(facts)
    if as_json:
        shown = [{"label": f.label, "start": f.start, "end": f.end, "detector": f.detector} for f in findings]
        emit_json({**_as_data(verdict), "findings": shown})
        return
    if text:
        seen = ", ".join(sorted({f.label for f in findings})) or "nothing"
        click.echo(f"Found in the text: {seen}.")
    if verdict.rulings:
        rows = [(r.endpoint, _word(r.why), r.rule, r.reason) for r in verdict.rulings.values()]
        print_table(("endpoint", "verdict", "rule", "why"), rows)
    if verdict.device_only:
        click.echo("The query stays on this device.")
    hours = (
        "as long as the settings say" if verdict.retain_s is None else f"{verdict.retain_s / 3600:g} hours"
    )
    by = f" ({', '.join(verdict.kept_by)})" if verdict.kept_by else ""
    click.echo(f"Cached: {'yes' if verdict.cache else 'never'}. Kept: {hours}{by}.")


@command.command("test")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@json_option
@click.pass_context
def _test(ctx: click.Context, file: Path, as_json: bool) -> None:
    """Judge the cases of a TOML file and compare; ends with 1 when one differs."""
    from edge_runtime.residency import differences, read_cases, residency_of
    from offload.residency import Evaluator

    found = residency_of(current_config())
    if not file.exists():
        raise DataError(f"{file} is not there; write cases as [[case]] tables (docs/residency.md)")
    evaluator = Evaluator(found.policy)
    results = [(c, differences(c, evaluator.verdict(c.facts))) for c in read_cases(file, found)]
    failed = sum(bool(wrong) for _, wrong in results)
    if as_json:
        rows = [{"name": case.name, "ok": not wrong, "differences": wrong} for case, wrong in results]
        emit_json({"ok": not failed, "cases": rows})
    else:
        for case, wrong in results:
            if wrong:
                click.echo(f"FAILED {case.name}: {'; '.join(wrong)}")
        click.echo(f"cases: {len(results)}, failed: {failed}")
    if failed:
        ctx.exit(1)


def _word(why: str) -> str:
    return {"permit": "may go", "consent-needed": "ask first"}.get(why, "stays")


def _as_data(verdict: Verdict) -> dict[str, Any]:
    facts = verdict.facts
    return {
        "labels": sorted(facts.labels),
        "purpose": facts.purpose,
        "consent": facts.consent,
        "location": facts.location,
        "allowed": list(verdict.allowed),
        "consent_for": list(verdict.consent_for),
        "device_only": verdict.device_only,
        "cache": verdict.cache,
        "retain_s": verdict.retain_s,
        "kept_by": list(verdict.kept_by),
        "policy": verdict.policy_id,
        "endpoints": [
            {
                "endpoint": r.endpoint,
                "allowed": r.allowed,
                "rule": r.rule,
                "why": r.why,
                "reason": r.reason,
                "redact": list(r.redact),
                "demanded_by": list(r.demanded_by),
            }
            for r in verdict.rulings.values()
        ],
    }
