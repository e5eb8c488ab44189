"""The one schema of the configuration file: sections, keys, types, limits, defaults, and what each is for.

Knows: names and types. Does not know: where a file lies or how it is read (`edge_runtime.config`).
`docs/configuration.md` is printed from it by `python -m edge_runtime.config_schema`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["SCHEMA", "Key", "Section", "problem_with", "render_markdown", "toml_value"]

TYPE_NAMES: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text in quotes",
    list: "a list of texts",
}


@dataclass(frozen=True, slots=True)
class Key:
    """One setting.

    `default` is `None` when the program decides (`unset` then says how). `minimum`, `maximum` are inclusive.
    `flags` names the options that the key is the default of, as `verb.parameter`; `variable` an environment
    variable that wins over the file.
    """

    name: str
    type: type
    default: Any
    doc: str
    unset: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    variable: str | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """One table of the file; a `repeated` one is an array of tables (`[[name]]`)."""

    name: str
    doc: str
    keys: tuple[Key, ...] = field(default_factory=tuple)
    repeated: bool = False

    def key(self, name: str) -> Key:
        """The key of that name; `KeyError` when there is none."""
        for key in self.keys:
            if key.name == name:
                return key
        raise KeyError(name)


def _both(parameter: str) -> tuple[str, ...]:
    return (f"run.{parameter}", f"chat.{parameter}")


def _engine(name: str, kind: type, doc: str, unset: str, minimum: float | None = None) -> Key:
    return Key(name, kind, None, doc, unset=unset, minimum=minimum, variable=f"EDGE_ENGINE_{name.upper()}")


def _share(name: str, doc: str, unset: str) -> Key:
    return Key(name, float, None, doc, unset=unset, minimum=0, maximum=1)


def _weight(name: str, doc: str) -> Key:
    return Key(name, float, 0.0, doc, minimum=0, maximum=1e9)


def _amount(name: str, doc: str) -> Key:
    return Key(name, float, None, doc, unset="no limit", minimum=0, maximum=1e12)


def _text(name: str, doc: str, unset: str = "not known", choices: tuple[str, ...] = ()) -> Key:
    return Key(name, str, None, doc, unset=unset, choices=choices)


def _list(name: str, doc: str, unset: str = "any") -> Key:
    return Key(name, list, None, doc, unset=unset)


def _hours(name: str) -> Key:
    return Key(name, float, 24.0, "Length of that window in hours.", minimum=1 / 60, maximum=24 * 366)


SCHEMA: tuple[Section, ...] = (
    Section(
        "runtime",
        "How the engine uses this machine.",
        (
            Key(
                "threads",
                int,
                None,
                "Threads that compute.",
                unset="the number of physical cores, measured per machine class",
                minimum=1,
                maximum=1024,
                flags=("run.threads", "chat.threads", "bench.threads"),
                variable="EDGE_ENGINE_THREADS",
            ),
            _engine(
                "spin",
                bool,
                "Idle threads wait in a loop: faster steps, busier cores.",
                "true with 2 threads or more",
            ),
            _engine(
                "spin_us",
                int,
                "Microseconds that idle threads loop before they sleep.",
                "50",
                0,
            ),
            _engine("arena", bool, "Keep freed memory for the next step.", "true"),
            _engine("dynamic_block", int, "onnxruntime's `dynamic_block_base`; 0 for off.", "0", 0),
            _engine(
                "prefill_chunk",
                int,
                "Prompt tokens per forward pass: bounds the memory of a prompt.",
                "256",
                1,
            ),
            _engine(
                "kv_step",
                int,
                "Tokens of context that a conversation has room for before it grows.",
                "512",
                16,
            ),
        ),
    ),
    Section(
        "model",
        "Which model answers, and how tokens are picked.",
        (
            Key(
                "name",
                str,
                "pocket",
                "Name of a package (`edge-runtime models list`) or path of its folder or `.edge` file.",
                flags=("run.model", "chat.model", "bench.model"),
            ),
            Key(
                "signatures",
                str,
                "warn",
                "What is done with a package or registry that no trusted key has signed: `any` takes it, "
                "`warn` takes it and says so, `required` refuses it. Shipped packages are part of the "
                "installation and need no signature; a bad signature is always refused.",
                choices=("any", "warn", "required"),
            ),
            Key(
                "trusted_keys",
                list,
                [],
                "Public keys that are trusted beside those of `edge-runtime models trust`, as lines "
                "`edge-ed25519 BASE64 NAME`.",
            ),
            Key(
                "registries",
                list,
                [],
                "Registries of models beside the installation's own, as paths (relative ones start at this "
                "file) and http(s) addresses, the more important first.",
                variable="EDGE_MODELS_REGISTRIES",
            ),
            Key("system", str, None, "System message of every query.", unset="none", flags=_both("system")),
            Key(
                "max_tokens",
                int,
                None,
                "Tokens generated at most.",
                unset="the package's own default, else to the end of the context",
                minimum=1,
                maximum=1_000_000,
                flags=_both("max_tokens"),
            ),
            Key(
                "temperature",
                float,
                None,
                "Divides the logits before a token is drawn; 0 always takes the most likely one.",
                unset="the package's own default, else 0",
                minimum=0,
                maximum=10,
                flags=_both("temperature"),
            ),
            Key(
                "top_k",
                int,
                None,
                "Draw among the k most likely tokens; 0 for no limit.",
                unset="the package's own default, else no limit",
                minimum=0,
                maximum=1_000_000,
                flags=_both("top_k"),
            ),
            Key(
                "top_p",
                float,
                None,
                "Draw among the most likely tokens that together reach this probability.",
                unset="the package's own default, else 1",
                minimum=0,
                maximum=1,
                flags=_both("top_p"),
            ),
            Key(
                "min_p",
                float,
                None,
                "Draw among tokens at least this many times as likely as the most likely one.",
                unset="the package's own default, else 0",
                minimum=0,
                maximum=1,
                flags=_both("min_p"),
            ),
            Key(
                "repetition_penalty",
                float,
                None,
                "Above 1 makes tokens that already stand in the context less likely.",
                unset="the package's own default, else 1",
                minimum=0.01,
                maximum=10,
                flags=_both("repetition_penalty"),
            ),
        ),
    ),
    Section(
        "router",
        "When an answer is kept, and when it is handed on ([router.md](router.md)).",
        (
            Key(
                "objective",
                str,
                "budget",
                "`budget`: the best answers that `[budget]` allows. `quality`: the fewest escalations that "
                "keep `accuracy`. `guarantee`: keep only what `certificate` promises.",
                choices=("budget", "quality", "guarantee"),
            ),
            _share(
                "threshold", "Keep an answer from this confidence on.", "what asking somebody else is worth"
            ),
            _share("accuracy", "Share of right answers that the objective `quality` keeps.", "must be given"),
            Key(
                "certificate",
                str,
                None,
                "File that `edge-runtime certify` wrote. The objective `guarantee` needs one.",
                unset="none",
            ),
            _weight("cost_weight", "Probability of a right answer that one unit of money is worth."),
            _weight("latency_weight", "Probability of a right answer that a second is worth."),
            _weight("energy_weight", "Probability of a right answer that a joule is worth."),
            Key(
                "uncalibrated",
                str,
                "escalate",
                "What is done with an answer whose confidence is not known.",
                choices=("escalate", "keep"),
            ),
            Key(
                "otherwise",
                str,
                None,
                "What is done with an answer that should be escalated when nobody can be asked.",
                unset="`refuse` under the objective `guarantee`, else `keep`",
                choices=("keep", "refuse"),
            ),
            Key("queue", bool, True, "An escalation that only lacks a network waits for it."),
            Key("max_queue", int, 1000, "Queries that may wait.", minimum=0),
            Key(
                "skip_below",
                float,
                0.05,
                "The device does not try a query that it has less than this chance with.",
                minimum=0,
                maximum=1,
            ),
            Key("early_stop", bool, True, "Stop an answer as soon as it cannot be kept any more."),
            Key(
                "max_temperature_c",
                float,
                None,
                "Hotter than this the device does not try while another can answer.",
                unset="no limit",
                minimum=0,
                maximum=150,
            ),
            Key(
                "min_battery",
                float,
                0.0,
                "With less charge than this share and no charger the device leaves queries to others.",
                minimum=0,
                maximum=1,
            ),
            Key("metered", bool, True, "Escalate over a metered network."),
            Key(
                "prefer",
                str,
                "auto",
                "`device`: never hand on. `cloud`: always, where it is allowed.",
                choices=("auto", "device", "cloud"),
            ),
            Key(
                "context",
                str,
                "auto",
                "What of a conversation is sent along: all of it, the last turns, a summary, or what the "
                "query and the budget ask for.",
                choices=("auto", "all", "last", "summary"),
            ),
            Key("context_turns", int, 4, "Earlier turns that are sent at most.", minimum=0, maximum=1000),
        ),
    ),
    Section(
        "budget",
        "What escalating may take, over windows that roll with the clock: no window ever holds more.",
        (
            _share("escalated_share", "Share of queries that may be escalated.", "no limit"),
            Key(
                "escalated_window",
                int,
                100,
                "Queries in a row that `escalated_share` is held for.",
                minimum=1,
                maximum=1_000_000,
            ),
            _amount("cost", "Money per `cost_window_h`, in the currency of the endpoints' prices."),
            _hours("cost_window_h"),
            _amount("traffic_mb", "Megabytes (10⁶ bytes) per `traffic_window_h`."),
            _hours("traffic_window_h"),
            _amount("energy_wh", "Watt-hours per `energy_window_h`."),
            _hours("energy_window_h"),
        ),
    ),
    Section(
        "residency",
        "Words that the rules about where queries may go use ([residency.md](residency.md)).",
        (
            _text("location", "Country of this device (ISO 3166-1 alpha-2, such as DE)."),
            Key("labels", list, [], "Labels of your own, beside the built-in ones."),
            Key("purposes", list, [], "What queries can be for."),
            _list(
                "detectors",
                "What texts are searched for, to add labels.",
                "all; `national_id` needs the extra `detect`",
            ),
            _text("contacts", "File with the names of people you know: vCard, or one per line.", "none"),
        ),
    ),
    Section(
        "endpoint",
        "Somebody to whom a query could go. What is not stated counts against it.",
        (
            _text("name", "Its name.", "must be given"),
            _text("region", "Where it computes, in its operator's words."),
            _list("jurisdiction", "Countries (or EU, EEA) whose law reaches the data there.", "not known"),
            _text("operator", "Who runs it."),
            _text(
                "channel",
                "`sealed`: encrypted to a region's key; `tls`: to the holder of the certificate; `plain`.",
                choices=("sealed", "tls", "plain"),
            ),
        ),
        repeated=True,
    ),
    Section(
        "rule",
        "Where queries may go ([residency.md](residency.md)). Without a `permit` nothing leaves; a `forbid` "
        "wins. Lists hold alternatives; `!x` excludes x, but for labels.",
        (
            _text("name", "Its name, which verdicts give.", "must be given"),
            _text(
                "effect",
                "`permit` lets queries go, `forbid` keeps them, `require` asks for something on the way.",
                "must be given",
                ("permit", "forbid", "require"),
            ),
            _list(
                "labels",
                "A permit covers queries with no labels but these; the others apply to queries with some of "
                "these. `*` is every label.",
                "a permit: no label; the others: any query",
            ),
            _list("purposes", "What the query is for."),
            _list("locations", "Where the device is: countries, EU, EEA."),
            _list("endpoints", "Names of endpoints."),
            _list("regions", "Regions of endpoints; may end in `*`."),
            _list("jurisdictions", "Jurisdictions: all of an endpoint's for a permit, some for the others."),
            _list("operators", "Operators of endpoints."),
            _list("channels", "Channels of endpoints."),
            _list("redact", "Require: labels that are replaced before a query leaves.", "none"),
            Key("consent", bool, False, "Require: the user must have agreed."),
            Key("no_cache", bool, False, "Require: neither query nor answer is cached."),
            Key(
                "retain_h", float, None, "Require: hours that they may be kept.", unset="no limit", minimum=0
            ),
        ),
        repeated=True,
    ),
)
"""Every section that a configuration file may hold, in the order of the documentation."""


def problem_with(key: Key, value: object) -> str | None:
    """What is wrong with `value` for `key`, as the end of a sentence; `None` when nothing is."""
    expected = TYPE_NAMES[key.type]
    shown = f"it is {value!r} ({type(value).__name__})"
    if key.type is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, key.type) or (isinstance(value, bool) and key.type is not bool):
        return f"must be {expected}, but {shown}"
    if isinstance(value, list) and not all(isinstance(item, str) for item in value):
        return f"must be {expected}, but {shown}"
    if key.choices and value not in key.choices:
        return f"must be one of {', '.join(map(repr, key.choices))}, but {shown}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        low = key.minimum is not None and not value >= key.minimum
        high = key.maximum is not None and not value <= key.maximum
        if low or high:
            return f"must be {_range_text(key)}, but {shown}"
    return None


def _range_text(key: Key) -> str:
    low, high = (None if limit is None else f"{limit:,.10g}" for limit in (key.minimum, key.maximum))
    if low is not None and high is not None:
        return f"from {low} to {high}"
    return f"{low} or more" if low is not None else f"{high} or less"


def render_markdown() -> str:
    """`docs/configuration.md`."""
    lines = [
        "# Configuration",
        "",
        "<!-- Printed by `make docs` from config_schema.py; a test checks that it is current. -->",
        "",
        "One TOML file, `edge-runtime/config.toml` in the XDG configuration folder (`~/.config` unless",
        "`XDG_CONFIG_HOME` says otherwise). `--config FILE` or `EDGE_CONFIG` names another one. Without",
        "a file the defaults below hold.",
        "",
        "A command-line flag wins over its environment variable (`EDGE_<VERB>_<FLAG>`, such as",
        "`EDGE_RUN_THREADS`), the variable over the file, the file over the default. An unknown key or a",
        "value of the wrong type is an error that names the file, the key and what was expected.",
        "`edge-runtime config check` looks for such errors and does nothing else, `config show` prints what",
        "holds and where it came from, `config init` writes a file with every key commented out.",
        "",
    ]
    for section in SCHEMA:
        title = f"[[{section.name}]]" if section.repeated else f"[{section.name}]"
        lines += [
            f"## `{title}`",
            "",
            section.doc,
            "",
            "| key | value | default | meaning |",
            "|---|---|---|---|",
        ]
        for key in section.keys:
            kind = TYPE_NAMES[key.type]
            if key.choices:
                kind = ", ".join(f"`{choice}`" for choice in key.choices)
            elif key.minimum is not None or key.maximum is not None:
                kind += f", {_range_text(key)}"
            default = key.unset if key.default is None else f"`{toml_value(key.default)}`"
            flags = ", ".join(f"`{flag.split('.')[0]} --{_flag_name(flag)}`" for flag in key.flags)
            meaning = key.doc + (f" Flags: {flags}." if flags else "")
            meaning += f" Variable: `{key.variable}`." if key.variable else ""
            lines.append(f"| `{key.name}` | {kind} | {default} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def toml_value(value: object) -> str:
    """A value as TOML writes it (texts, numbers, booleans and lists of texts: all that the schema has)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
        return f'"{escaped}"'
    return repr(value)


def _flag_name(flag: str) -> str:
    return flag.split(".")[1].replace("_", "-")


if __name__ == "__main__":
    print(render_markdown(), end="")
