"""Write what is computed in `model_zoo/registry.toml`, and the table of it in `docs/zoo.md`.

Run it as `python -m tools.registry`, after an entry changed or a package was shipped. Below each line
`# computed` of the registry the sizes, memory and boards of an entry are replaced; the entries of shipped
packages are written whole, from their manifests and graphs. With `--check` nothing is written, and the script
ends with 1 when something is out of date.
"""

from __future__ import annotations

import re
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from click.testing import CliRunner

from edge_runtime.cli import cli
from model_zoo import files as fs
from model_zoo.footprint import Architecture, Footprint
from model_zoo.manifest import Manifest, read_manifest
from model_zoo.recommend import suited_boards
from model_zoo.registry_file import RegistryEntry, parse_registry
from model_zoo.store import shipped_dir

ROOT = Path(__file__).resolve().parent.parent
REGISTRY = ROOT / "model_zoo" / "registry.toml"
PAGE = ROOT / "docs" / "zoo.md"
SHIPPED = "# --- shipped: written whole by `python -m tools.registry` ---\n"
COMPUTED = "# computed\n"
EXAMPLE_WORDS = ("models", "recommend", "--board", "pi5-4gb")
EXAMPLE = re.compile(r"(<!-- recommend -->\n).*?(<!-- end -->)", re.DOTALL)
TABLE = re.compile(r"(<!-- registry -->\n).*?(<!-- end -->)", re.DOTALL)

ABOUT = {
    "pocket": ("What people say to a device, as a JSON frame; word problems with written steps.", "device"),
    "pocket-cloud": ("The larger partner of pocket: the same tasks, for the hard ones.", "cloud"),
}
"""What a manifest does not say: a sentence about each shipped package, and its part in the pair."""


def registry_text(text: str, packages: Path) -> str:
    """The registry with its computed parts as they must be."""
    by_hand, _, _ = text.partition(SHIPPED)
    head, *blocks = by_hand.split("[[model]]\n")
    written = [block.partition(COMPUTED)[0] for block in blocks]
    plain = head + "".join("[[model]]\n" + block for block in written)
    _, entries = parse_registry(plain.encode(), REGISTRY.name)
    parts = [head]
    for block, entry in zip(written, entries, strict=True):
        assert entry.architecture is not None
        parts.append("[[model]]\n" + block + COMPUTED + computed(entry) + "\n")
    parts.append(SHIPPED)
    for folder in sorted(path.parent for path in packages.glob("*/manifest.json")):
        parts.append("\n" + shipped_entry(folder, head))
    return "".join(parts)


def computed(entry: RegistryEntry) -> str:
    """Boards and schemes of an entry, as TOML."""
    boards = ", ".join(f'"{name}"' for name in suited_boards(entry))
    return f"boards = [{boards}]\n" + "".join(
        f"schemes.{name} = {{ package_bytes = {size.package_bytes}, "
        f"weights_bytes = {size.memory.weights_bytes}, "
        f"kv_bytes_per_token = {size.memory.kv_bytes_per_token}, "
        f"runtime_bytes = {size.memory.runtime_bytes} }}\n"
        for name, size in entry.schemes.items()
    )


def shipped_entry(folder: Path, head: str) -> str:
    """The whole entry of a shipped package."""
    manifest, _ = read_manifest(folder)
    about, part = ABOUT.get(folder.name, ("Shipped with the program.", "device"))
    arch = architecture_of(folder, manifest)
    sizes = ", ".join(f"{key} = {_toml(getattr(arch, key))}" for key in arch.__dataclass_fields__)
    lines = [
        "[[model]]",
        f'name = "{manifest.id}"',
        f'summary = "{about}"',
        f'shipped = "{folder.name}"',
        f'licence = "{manifest.licence.id}"',
        f"parameters = {manifest.parameters}",
        f"context = {manifest.context_length}",
        f"tokenizer_bytes = {manifest.files['tokenizer.json'].size}",
        f'tasks = ["frames", "problems", "{part}"]',
        f"architecture = {{ {sizes} }}",
    ]
    memory = manifest.memory
    size = Footprint(manifest.size_bytes, memory)
    block = "\n".join(lines) + "\n"
    scheme = (
        f"schemes.{manifest.quantization.scheme} = {{ package_bytes = {size.package_bytes}, "
        f"weights_bytes = {memory.weights_bytes}, kv_bytes_per_token = {memory.kv_bytes_per_token}, "
        f"runtime_bytes = {memory.runtime_bytes} }}\n"
    )
    _, entries = parse_registry((head + block + scheme).encode(), folder.name)
    return block + COMPUTED + computed(entries[0])


def architecture_of(folder: Path, manifest: Manifest) -> Architecture:
    """The numbers of a package's model, read from its manifest and its graph (the weights stay on disk)."""
    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    columns = {
        node.output[0]: attribute.i
        for node in graph.node
        for attribute in node.attribute
        if node.op_type == "MatMulNBits" and attribute.name == "K"
    }

    def inputs(name: str) -> int:
        return columns[name] if name in columns else shapes[f"{name}.weight"][1]

    options: dict[str, Any] = dict(manifest.engine_options)
    head_dim = int(options["head_dim"])
    tables = {name for name in shapes if name.startswith("rope.") and name.endswith(".cos")}
    return Architecture(
        name=manifest.architecture,
        vocab=manifest.vocab_size,
        hidden=shapes["final_norm.weight"][0],
        layers=int(options["layers"]),
        heads=inputs("layers.0.attention.out") // head_dim,
        kv_heads=int(options["kv_heads"]),
        head_dim=head_dim,
        ffn=inputs("layers.0.mlp.down"),
        tied=not {"head.codes", "head.weight"} & set(shapes),
        qkv_bias="layers.0.attention.qkv.bias" in shapes,
        qk_norm="layers.0.attention.q_norm.weight" in shapes,
        norms=4 if "layers.0.mlp_out_norm.weight" in shapes else 2,
        rotary_dim=2 * shapes[min(tables)][1],
        ropes=len(tables),
    )


def table(entries: tuple[RegistryEntry, ...]) -> Iterator[str]:
    """The registry as a table of `docs/zoo.md`."""
    columns = ("model", "parameters", "context", "licence", "download", "package", "memory", "smallest board")
    yield "| " + " | ".join(columns) + " |"
    yield "|---|---:|---:|---|---:|---:|---:|---|"
    for entry in entries:
        name, size = next(iter(entry.schemes.items()))
        note = "" if name == "int4" else f" ({name})"
        tokens = min(2048, entry.package_context)
        licence = entry.licence + (", gated" if entry.gated else "")
        made = "" if entry.package_context == entry.context else f" ({entry.package_context:,})"
        full = "" if tokens == 2048 else f" ({tokens} tokens)"
        where = "shipped" if entry.shipped else fs.human_size(entry.checkpoint_bytes)
        millions = f"{entry.parameters / 1e6:,.0f} M"
        yield (
            f"| `{entry.id}` | {millions} | {entry.context:,}{made} | {licence} | {where} | "
            f"{fs.human_size(size.package_bytes)}{note} | {fs.human_size(size.memory.total(tokens))}"
            f"{full} | {entry.boards[0] if entry.boards else '—'} |"
        )


def example() -> str:
    """What the verb says about one board, for a user who has nothing installed or configured."""
    with tempfile.TemporaryDirectory() as nothing:
        places = ("EDGE_MODELS_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
        env = {**dict.fromkeys(places, nothing), "EDGE_CONFIG": None, "EDGE_MODELS_REGISTRIES": None}
        done = CliRunner().invoke(cli, EXAMPLE_WORDS, env=env, catch_exceptions=False)
    lines = [part for line in done.stdout.splitlines() for part in textwrap.wrap(line, 118) or [""]]
    return f"```console\n$ edge-runtime {' '.join(EXAMPLE_WORDS)}\n" + "\n".join(lines) + "\n```\n"


def rendered() -> dict[Path, str]:
    """Every file that this script writes, with the text it must have."""
    text = registry_text(REGISTRY.read_text(encoding="utf-8"), shipped_dir())
    _, entries = parse_registry(text.encode(), REGISTRY.name)
    page = PAGE.read_text(encoding="utf-8")
    rows = "\n".join(table(entries))
    page = TABLE.sub(lambda m: f"{m[1]}\n{rows}\n\n{m[2]}", page)
    # The example reads the registry on disk; `main` has written that by the time it writes the page.
    return {REGISTRY: text, PAGE: EXAMPLE.sub(lambda m: f"{m[1]}\n{example()}\n{m[2]}", page)}


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def main() -> int:
    """Write, or with `--check` compare."""
    check = "--check" in sys.argv[1:]
    changed = False
    for path in (REGISTRY, PAGE):  # the page is made from the registry as it lies there by then
        text = rendered()[path]
        if path.read_text(encoding="utf-8") != text:
            changed = True
            print(f"{path.relative_to(ROOT)}: {'out of date' if check else 'written'}")
            if not check:
                path.write_text(text, encoding="utf-8")
    return 1 if changed and check else 0


if __name__ == "__main__":
    raise SystemExit(main())
