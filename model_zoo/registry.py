"""Registries: which models can be had, by short names, and from whom.

There is one registry in the installation (`registry.toml`); users add their own, as files or addresses. A
name is looked up in all of them, in this order: those signed by a key that the user trusts, in the order they
were given; the installation's own; the others in their order. An entry hides later ones of the same name and
tag; `REGISTRY/NAME[:TAG]` reaches a hidden one.

Knows: names, precedence, the cache of fetched registries. Does not know: the file format
(`registry_file.py`), how a model is fetched (`pull.py`), or where the user's settings stand.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model_zoo.errors import ModelNotFoundError, RegistryError
from model_zoo.registry_file import MAX_REGISTRY_BYTES, RegistryEntry, Signed, parse_registry
from model_zoo.signing import (
    SignaturePolicy,
    SignatureState,
    check_registry,
    read_signature,
    signature_path,
)

if TYPE_CHECKING:
    from model_zoo.registry_cache import Fetch

__all__ = [
    "REFRESH_S",
    "Registry",
    "RegistryEntry",
    "Source",
    "load_registries",
    "registry_cache_dir",
    "shipped_registry",
]

REFRESH_S = 24 * 3600.0
"""A fetched registry that is younger than this is used without asking its server again, seconds."""


@dataclass(frozen=True, slots=True)
class Source:
    """A registry that was read: its name, where it was, and what is known of its signature."""

    name: str
    where: str
    signature: SignatureState

    @property
    def trusted(self) -> bool:
        """Whether it is part of the installation or signed by a key that the user trusts."""
        return self.signature.status in ("shipped", "trusted")


@dataclass(frozen=True, slots=True)
class Registry:
    """All registries together, in their order of precedence.

    `all_entries` holds hidden entries too; `notices` what a user should know (an old copy used, an entry
    hidden, a signature missing).
    """

    sources: tuple[Source, ...]
    all_entries: tuple[RegistryEntry, ...]
    notices: tuple[str, ...] = ()

    def entries(self) -> tuple[RegistryEntry, ...]:
        """What can be had by name: of entries with the same id the first."""
        seen: dict[str, RegistryEntry] = {}
        for entry in self.all_entries:
            seen.setdefault(entry.id, entry)
        return tuple(seen.values())

    def resolve(self, name: str) -> RegistryEntry:
        """The entry that `NAME`, `NAME:TAG` or `REGISTRY/NAME[:TAG]` means.

        A bare name means the entry that its registry marks as the default, or the only one there is. Upper
        case and a dash for the colon (as in the names of folders) are understood.

        Raises:
            ModelNotFoundError: unknown (names the nearest ones) or ambiguous (lists the choices).
        """
        wanted, pool = name.strip().lower(), self.entries()
        registry, slash, rest = wanted.partition("/")
        if slash:
            known = [source.name for source in self.sources]
            if registry not in known:
                raise ModelNotFoundError(
                    f"{name}: there is no registry '{registry}'; there are {', '.join(known)}. "
                    "A repository of the hub is quantized with: edge-runtime quantize OWNER/NAME OUT"
                )
            wanted, pool = rest, tuple(e for e in self.all_entries if e.registry == registry)
        for spelling in (wanted, wanted.replace("-", ":")):
            for entry in pool:
                if spelling in (entry.id, entry.id.replace("-", ":")):
                    return entry
        sizes = [entry for entry in pool if entry.name == wanted]
        chosen = [entry for entry in sizes if entry.default] or sizes
        if len({entry.registry for entry in chosen}) > 1:
            # two registries have sizes of this model: the one that comes first decides
            chosen = [entry for entry in chosen if entry.registry == chosen[0].registry]
        if len(chosen) == 1:
            return chosen[0]
        if chosen:
            listed = ", ".join(f"{entry.id} ({_millions(entry.parameters)})" for entry in chosen)
            raise ModelNotFoundError(f"{name}: comes in several sizes; name one: {listed}")
        raise ModelNotFoundError(_unknown(name, wanted, pool))


def shipped_registry() -> Registry:
    """The registry of the installation alone."""
    return load_registries(())


def load_registries(
    locations: Sequence[str],
    *,
    policy: SignaturePolicy | None = None,
    fetch: Fetch | None = None,
    cache: Path | None = None,
    refresh_s: float = REFRESH_S,
    now: Callable[[], float] = time.time,
    shipped: Path | None = None,
) -> Registry:
    """Read the installation's registry and the user's.

    Args:
        locations: paths and http(s) addresses of the user's registries, the more important first. A
            signature lies beside each, under its name with `.sig` added. An address without encryption is
            used only when a trusted key signed what it gives (or on this very machine).
        policy: which signatures are asked for; by default none, and a bad one is refused.
        fetch: gets an address; by default over HTTP with the proxies of the environment.
        cache: where fetched registries are kept; `registry_cache_dir()` by default.
        refresh_s: age from which a kept copy is fetched again, seconds. Without a network the kept copy is
            used whatever its age, and a notice says so.
        now: the clock, seconds since the epoch.
        shipped: the installation's registry.

    Raises:
        RegistryError: one cannot be read or breaks the format, two have the same name.
        SignatureError: a signature is bad, or the policy wants another one.
    """
    policy = policy or SignaturePolicy()
    notices: list[str] = []
    own = shipped or Path(__file__).with_name("registry.toml")
    read = [_parsed(str(own), own.read_bytes(), SignatureState("shipped"))]
    for location in locations:
        check = functools.partial(_checked, location, policy)
        if "://" in location:
            from model_zoo.registry_cache import RegistryCache  # with HTTP, which takes its time to import

            kept = RegistryCache(cache or registry_cache_dir(), fetch, refresh_s, now)
            read.append(kept.get(location, check, notices))
        else:
            read.append(check(_read(Path(location).expanduser())))
        warning = policy.warning(read[-1][0].signature, location)
        notices += [warning] if warning else []
    _check_names([source for source, _ in read])
    # A stable sort: trusted ones first, and the order that was given within each kind. The user's own trusted
    # registries come before the installation's: who configures one means it.
    order = sorted(range(len(read)), key=lambda i: (not read[i][0].trusted, i == 0))
    sources = tuple(read[i][0] for i in order)
    entries = tuple(entry for i in order for entry in read[i][1])
    return Registry(sources, entries, (*notices, *_hidden(entries)))


def registry_cache_dir() -> Path:
    """Where fetched registries are kept: `edge-runtime/registries` in the XDG cache folder (not created)."""
    import platformdirs

    return Path(platformdirs.user_cache_path("edge-runtime", appauthor=False)) / "registries"


# --- reading ------------------------------------------------------------------------------------------------


_Read = tuple[Source, tuple[RegistryEntry, ...]]


def _checked(where: str, policy: SignaturePolicy, read: Signed) -> _Read:
    """Signature first: nothing is parsed that the policy does not allow."""
    state = check_registry(read.content, read.signature, policy, where)
    if _in_the_clear(where) and state.status != "trusted":
        raise RegistryError(
            f"{where}: comes unencrypted and {state.text}, so anybody on the way could have written it; "
            "use https, or have it signed by a key that you trust"
        )
    return _parsed(where, read.content, state)


def _parsed(where: str, content: bytes, state: SignatureState) -> _Read:
    name, entries = parse_registry(content, where)
    signer = state.signer if state.status == "trusted" else None
    signed = tuple(dataclasses.replace(entry, signed_by=signer) for entry in entries)
    if state.status != "shipped" and (own := [entry.id for entry in entries if entry.shipped]):
        raise RegistryError(
            f"{where}: {own[0]} says that it is shipped, which only the installation's own registry can; "
            "give its repository or url"
        )
    return Source(name, where, state), signed


def _read(path: Path) -> Signed:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_REGISTRY_BYTES + 1)
    except OSError as error:
        raise RegistryError(
            f"{path}: the registry cannot be read: {error.strerror or error}; "
            "correct or remove it in [model] registries (or EDGE_MODELS_REGISTRIES)"
        ) from error
    return Signed(content, read_signature(signature_path(path)))


def _in_the_clear(location: str) -> bool:
    if "://" not in location or location.startswith("https://"):
        return False
    from model_zoo.http import is_local

    return not is_local(location)


def _check_names(sources: Sequence[Source]) -> None:
    seen: dict[str, str] = {}
    for source in sources:
        if source.name in seen:
            raise RegistryError(
                f"{source.where}: the registry calls itself '{source.name}', as {seen[source.name]} does; "
                "change its name or leave one of them out"
            )
        seen[source.name] = source.where


def _hidden(entries: Sequence[RegistryEntry]) -> list[str]:
    """Notices about entries that another one hides."""
    first: dict[str, RegistryEntry] = {}
    found = []
    for entry in entries:
        winner = first.setdefault(entry.id, entry)
        if winner is not entry:
            found.append(
                f"{entry.id} of registry '{entry.registry}' is hidden by that of '{winner.registry}'; "
                f"it is reached as {entry.registry}/{entry.id}"
            )
    return found


def _unknown(name: str, wanted: str, pool: Sequence[RegistryEntry]) -> str:
    base, _, tag = wanted.partition(":")
    sizes = [entry.id for entry in pool if entry.name == base]
    if tag and sizes:
        return f"{name}: there is no '{tag}' of {base}; there is {' or '.join(sizes)}"
    known = {entry.id if tag else entry.name: None for entry in pool}
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    if near:
        return f"{name}: no model of that name in any registry; did you mean {' or '.join(map(repr, near))}?"
    names = ", ".join(entry.id for entry in pool) or "none"
    return f"{name}: no model of that name in any registry; there are {names}"


def _millions(count: int) -> str:
    return f"{count / 1e9:.1f} B parameters" if count >= 1e9 else f"{count / 1e6:.0f} M parameters"
