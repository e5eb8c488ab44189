"""`edge-runtime completion`: the shell's completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["command"]

VARIABLE = "_EDGE_RUNTIME_COMPLETE"
"""The variable by which click's scripts ask the program for candidates: `_<PROGRAM>_COMPLETE`."""


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print a script that completes verbs and flags.

    \b
    bash:  edge-runtime completion bash > ~/.local/share/bash-completion/completions/edge-runtime
    zsh:   edge-runtime completion zsh  > "${fpath[1]}/_edge-runtime"
    fish:  edge-runtime completion fish > ~/.config/fish/completions/edge-runtime.fish
    """
    root = ctx.find_root()
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"this version of click cannot complete in {shell}.")
    click.echo(kind(root.command, {}, "edge-runtime", VARIABLE).source())
