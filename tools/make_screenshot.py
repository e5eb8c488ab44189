"""Record a real run of the demo as docs/images/demo.svg. Run it as `python -m tools.make_screenshot`."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

from rich.console import Console

from edge_runtime import Runtime
from tools import demo

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "demo.svg"


def main() -> None:
    console = Console(record=True, width=124, file=StringIO(), force_terminal=True, highlight=False)
    console.print("[bold]$ make demo[/bold]\n")
    with Runtime.open("pocket") as runtime:
        demo.show(runtime, demo.UTTERANCES, demo.PROBLEMS, console)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    svg = console.export_svg(title="Edge Runtime")
    # Whoever looks at the picture should not fetch a font from a third party: the local one will do.
    PICTURE.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), encoding="utf-8")
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
