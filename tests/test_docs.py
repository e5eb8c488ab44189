"""The documentation is tested: every verb and flag described, every shown command real, marked ones run."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from edge_runtime.cli import cli
from edge_runtime.cli.output import EXIT_MEANINGS
from tools import render_docs

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OWN_PAGES = {"README.md", "CONTRIBUTING.md", "cli.md"}
MARKS = ("run", "not run: ")
"""What stands in the comment above a console block of the pages for newcomers: `<!-- run -->` has the test
run it, `<!-- not run: REASON -->` has it check that the verbs and flags exist."""


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    mark: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Lines after a `$ ` in a console block, every line of a shell block; continued lines are joined."""
        joined = self.text.replace("\\\n", " ")
        if self.language == "console":
            return [line[2:] for line in joined.splitlines() if line.startswith("$ ")]
        return [line for line in joined.splitlines() if line and not line.startswith("#")]


def blocks() -> Iterator[Block]:
    for page in PAGES:
        mark, start, language, lines = "", 0, "", list[str]()
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            if start:
                if line.strip() == "```":
                    yield Block(page.name, start, language, mark, "\n".join(lines))
                    mark, start, lines = "", 0, []
                else:
                    lines.append(line)
            elif line.startswith("```"):
                start, language = number, line[3:].strip()
            elif line.startswith("<!--"):
                mark = line.removeprefix("<!--").removesuffix("-->").strip()
            elif line.strip():
                mark = ""


BLOCKS = list(blocks())
SHELL = [block for block in BLOCKS if block.language in ("console", "sh", "bash", "shell")]


def name(block: Block) -> str:
    return f"{block.page}:{block.line}"


def verbs() -> dict[str, click.Command]:
    """Every verb, subcommands as `models list`."""
    ctx = click.Context(cli)
    found: dict[str, click.Command] = {}

    def walk(path: str, command: click.Command) -> None:
        found[path] = command
        if isinstance(command, click.Group):
            for child in command.list_commands(ctx):
                inner = command.get_command(ctx, child)
                assert inner is not None
                walk(f"{path} {child}", inner)

    for verb in cli.list_commands(ctx):
        command = cli.get_command(ctx, verb)
        assert command is not None
        walk(verb, command)
    return found


def flags(command: click.Command) -> set[str]:
    options = [param for param in command.params if isinstance(param, click.Option) and not param.hidden]
    return {
        flag for option in options for flag in (*option.opts, *option.secondary_opts) if flag.startswith("--")
    }


def section(page: str, heading: str) -> str:
    found = re.search(rf"^#+ `{re.escape(heading)}`.*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    return found.group(0) if found else ""


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_every_verb_and_flag_is_in_the_page_of_the_command_line(verb: str) -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    described = section(page, verb.split()[0])
    assert described, f"docs/cli.md has no section '## `{verb.split()[0]}`'"
    assert verb in described, f"docs/cli.md does not mention '{verb}'"
    missing = {flag for flag in flags(verbs()[verb]) if f"`{flag}" not in described}
    assert not missing, f"docs/cli.md does not describe {sorted(missing)} of '{verb}'"


def test_what_is_generated_is_current() -> None:
    old = [path.name for path, text in render_docs.rendered().items() if path.read_text("utf-8") != text]
    assert not old, "run: make docs"


def test_every_exit_code_is_in_the_page_of_the_command_line() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for code, meaning in EXIT_MEANINGS.items():
        assert f"| {code.value} | {meaning} |" in page


@pytest.mark.parametrize(
    "block", [b for b in SHELL if b.page in OWN_PAGES and b.language == "console"], ids=name
)
def test_every_console_block_says_whether_it_is_run(block: Block) -> None:
    assert block.mark == MARKS[0] or block.mark.startswith(MARKS[1]), f"no mark above; write one of {MARKS}"


@pytest.mark.parametrize("block", SHELL, ids=name)
def test_a_shown_command_of_ours_has_the_verb_and_the_flags_it_shows(block: Block) -> None:
    known = verbs()
    for line in block.commands:
        words = shlex.split(line, comments=True)
        for start in [i for i, word in enumerate(words) if word.split("/")[-1] == "edge-runtime"]:
            stop = next(
                (i for i in range(start, len(words)) if words[i] in ("|", "&&", ";", ">")), len(words)
            )
            _check_command(words[start + 1 : stop], known, f"{name(block)}: {line}")


def _check_command(words: list[str], known: dict[str, click.Command], where: str) -> None:
    if words[:1] == ["--config"]:
        words = words[2:]
    if not words or words[0].startswith("-"):
        return
    verb = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
    assert verb in known, f"{where}: there is no verb '{verb}'"
    shown = {word.split("=")[0] for word in words if re.match(r"--[a-z]", word)}
    unknown = shown - flags(known[verb]) - {"--help"}
    assert not unknown, f"{where}: '{verb}' has no {sorted(unknown)}"


@pytest.mark.parametrize("block", [b for b in SHELL if b.mark == MARKS[0]], ids=name)
def test_a_command_that_is_marked_so_runs(block: Block, tmp_path: Path) -> None:
    program = f'edge-runtime() {{ "{sys.executable}" -m edge_runtime "$@"; }}'
    for line in block.commands:
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {program}; {line}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, f"{name(block)}: {line}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_of_the_project_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
