"""The command line `edge-runtime`: one module per verb, found through the entry points `edge_runtime.verbs`.

Knows: how verbs are found and how they end (exit codes, errors), and that the configuration file gives their
defaults. Does not know: what any verb does; `quantize` adds its own without being imported here.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import click

from edge_runtime.cli import output

__all__ = ["PROGRAM", "VERB_GROUP", "BrokenVerb", "VerbGroup", "cli", "find_verbs", "main"]

PROGRAM = "edge-runtime"
VERB_GROUP = "edge_runtime.verbs"

OWN_VERBS = {
    name: f"edge_runtime.cli.{name}:command"
    for name in (
        "bench",
        "calibrate",
        "chat",
        "completion",
        "config",
        "evaluate",
        "keys",
        "models",
        "policy",
        "run",
    )
}
"""Verbs of this package: known without installed metadata, so that `python -m edge_runtime` always works."""

WITHOUT_CONFIG = frozenset({"completion", "config"})
"""Verbs that must work while the configuration file is broken."""

EPILOG = "\b\nExit codes:\n" + "\n".join(
    f"  {code.value:>3}  {meaning}" for code, meaning in output.EXIT_MEANINGS.items()
)


def find_verbs() -> dict[str, str]:
    """Every verb's name and where its `click.Command` is (`module:attribute`)."""
    installed = {entry.name: entry.value for entry in metadata.entry_points(group=VERB_GROUP)}
    return {**OWN_VERBS, **installed}


class BrokenVerb(click.ClickException):
    """A verb that is registered and cannot be loaded."""

    def __init__(self, name: str, target: str, reason: str) -> None:
        super().__init__(
            f"the verb '{name}' cannot be loaded from {target}: {reason}. "
            "Reinstall the package that provides it (pip install --force-reinstall edge-runtime)."
        )
        self.reason = reason


class VerbGroup(click.Group):
    """A group that imports a verb's module only when the verb is needed.

    Args:
        verbs: gives name → `module:attribute`; called once, at the first look-up.
    """

    def __init__(
        self, *args: Any, verbs: Callable[[], Mapping[str, str]] = find_verbs, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._find_verbs = verbs
        self._verbs: Mapping[str, str] | None = None

    @property
    def verbs(self) -> Mapping[str, str]:
        """Name → `module:attribute`."""
        if self._verbs is None:
            self._verbs = self._find_verbs()
        return self._verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the verbs, sorted."""
        return sorted({*self.verbs, *self.commands})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command with its environment twins set; `None` for an unknown name.

        Raises:
            BrokenVerb: the verb's module cannot be imported (names the module and the reason).
        """
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        target = self.verbs.get(cmd_name)
        if target is None:
            return None
        command = _load(cmd_name, target)
        output.name_environment_twins(command, ("EDGE", cmd_name))
        self.add_command(command, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb of a command line, or say which verb was probably meant."""
        name = args[0]
        if not name.startswith("-") and name not in self.verbs and name not in self.commands:
            near = get_close_matches(name, self.list_commands(ctx), n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise click.UsageError(f"no verb '{name}'.{hint} `{PROGRAM} --help` lists all verbs.", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs; one that cannot be imported is listed with the reason."""
        rows = []
        width = formatter.width - 6 - max(map(len, self.list_commands(ctx)), default=0)
        for name in self.list_commands(ctx):
            try:
                command = self.get_command(ctx, name)
            except BrokenVerb as error:
                rows.append((name, f"(cannot be loaded: {error.reason})"))
                continue
            if command is not None and not command.hidden:
                rows.append((name, command.get_short_help_str(width)))
        if rows:
            with formatter.section("Verbs"):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb with the configuration file as defaults; a known error ends with its exit code."""
        try:
            self._read_config(ctx)
            super().invoke(ctx)
        except BrokenPipeError:
            output.close_broken_stdout()
            ctx.exit(output.ExitCode.BROKEN_PIPE.value)
        except Exception as error:
            code = output.exit_code_of(error)
            if code is None:
                raise
            output.report_error(error, code, as_json=output.wants_json(ctx))
            ctx.exit(code.value)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """As click's, but errors read `edge-runtime: error: …` and an interrupt ends with 130."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode, **extra)
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.Abort:
            code = output.ExitCode.INTERRUPTED.value
        except click.ClickException as error:
            output.report_error(error, output.ExitCode.USAGE, as_json=False)
            code = output.ExitCode.USAGE.value
        sys.exit(code or 0)

    def _read_config(self, ctx: click.Context) -> None:
        rest = ctx._protected_args + ctx.args
        if not rest or rest[0] not in self.verbs or rest[0] in WITHOUT_CONFIG or {"--help", "-h"} & {*rest}:
            return
        from edge_runtime import config

        loaded = config.load(output.config_path(ctx))
        ctx.meta[output.CONFIG_KEY] = loaded
        ctx.default_map = loaded.default_map()


def _load(name: str, target: str) -> click.Command:
    """Import `module:attribute`; anything that goes wrong there is told as one sentence."""
    module_name, _, attribute = target.partition(":")
    try:
        command = getattr(importlib.import_module(module_name), attribute or "command")
    except Exception as error:
        raise BrokenVerb(name, target, f"{type(error).__name__}: {error}") from error
    if not isinstance(command, click.Command):
        raise BrokenVerb(name, target, f"it is a {type(command).__name__}, not a click.Command")
    return command


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    python = ".".join(map(str, sys.version_info[:3]))
    click.echo(
        f"{PROGRAM} {_version('edge-runtime')} (onnxruntime {_version('onnxruntime')}, Python {python})"
    )
    ctx.exit()


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "(not installed)"


@click.group(
    cls=VerbGroup,
    name=PROGRAM,
    epilog=EPILOG,
    no_args_is_help=False,
    invoke_without_command=True,
    context_settings={
        "auto_envvar_prefix": "EDGE",
        "help_option_names": ["-h", "--help"],
        "show_default": True,
    },
)
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="EDGE_CONFIG",
    show_envvar=True,
    help="Configuration file. [default: edge-runtime/config.toml in the XDG configuration folder]",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version.",
)
@click.pass_context
def cli(ctx: click.Context, config: Path | None) -> None:
    """Run quantized language models on this device, with evidence for every token.

    Every option has an environment variable, shown in the verb's --help. A flag wins over the variable, the
    variable over the configuration file, the file over the default.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the console script; ends the process with one of `output.ExitCode`."""
    cli.main(args=None if argv is None else list(argv), prog_name=PROGRAM)
    raise SystemExit(0)
