"""Make a model package from a checkpoint; the same as `edge-runtime quantize`.

python tools/quantize.py SRC OUT [--scheme int4] …
"""

import sys
from pathlib import Path


def main() -> None:
    # Runs from a source tree that is not installed; this file's own folder would hide the package of its
    # name.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from edge_runtime.cli import cli, main
    from quantize.cli import command

    cli.add_command(command)
    main(["quantize", *sys.argv[1:]])


if __name__ == "__main__":
    main()
