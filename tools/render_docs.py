"""Write what the code knows of the documentation: docs/configuration.md and the flags in docs/cli.md.

Run it as `python -m tools.render_docs`. In docs/cli.md the text between `<!-- flags: VERB -->` and
`<!-- end -->` is replaced. With `--check` nothing is written, and the script ends with 1 when something is
out of date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from edge_runtime.cli import cli
from edge_runtime.cli.output import EXIT_MEANINGS
from edge_runtime.config_schema import render_markdown

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- flags: (?P<verb>[a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
EXITS = re.compile(r"(<!-- exit codes -->\n).*?(<!-- end -->)", re.DOTALL)


def find(path: str) -> click.Command:
    """The command of `models list`."""
    ctx, command = click.Context(cli), None
    group: click.Command = cli
    for name in path.split():
        if not isinstance(group, click.Group):
            raise SystemExit(f"docs/cli.md: '{path}' is not a verb")
        command = group.get_command(ctx, name)
        if command is None:
            raise SystemExit(f"docs/cli.md: '{path}' is not a verb")
        group = command
    if command is None:
        raise SystemExit("docs/cli.md: a block names no verb")
    return command


def flag_table(command: click.Command) -> str:
    """A table of the command's options, or a sentence when there are none."""
    rows = []
    for param in command.params:
        if not isinstance(param, click.Option) or param.hidden:
            continue
        names = ", ".join(
            f"`{name}`" for name in sorted((*param.opts, *param.secondary_opts), key=len, reverse=True)
        )
        value = (
            "" if param.is_flag else f" `{param.make_metavar(click.Context(command)).removesuffix(' RANGE')}`"
        )
        rows.append(f"| {names}{_cell(value)} | {_cell(param.help or '')}{_default(param)} |")
    if not rows:
        return "No flags.\n"
    return "\n".join(["| flag | meaning |", "|---|---|", *rows, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _default(param: click.Option) -> str:
    value = param.get_default(click.Context(click.Command("x")), call=False)
    plain = isinstance(value, str | int | float) and not isinstance(value, bool)
    return f" Default: `{value}`." if plain and "default:" not in (param.help or "") else ""


def rendered() -> dict[Path, str]:
    """Every generated page and what it should contain."""
    page = ROOT / "docs" / "cli.md"
    codes = "".join(f"| {code.value} | {meaning} |\n" for code, meaning in EXIT_MEANINGS.items())
    text = page.read_text(encoding="utf-8")
    text = BLOCK.sub(lambda match: match[1] + flag_table(find(match["verb"])) + match[3], text)
    text = EXITS.sub(lambda match: f"{match[1]}| code | meaning |\n|---|---|\n{codes}{match[2]}", text)
    return {page: text, ROOT / "docs" / "configuration.md": render_markdown()}


def main() -> None:
    old = []
    for path, text in rendered().items():
        if path.read_text(encoding="utf-8") == text:
            continue
        old.append(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {old[-1]}")
    if old and "--check" in sys.argv:
        raise SystemExit(f"out of date: {', '.join(map(str, old))}; run: make docs")


if __name__ == "__main__":
    main()
