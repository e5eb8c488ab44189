"""Registries: names, precedence, signatures, the cache of fetched ones, and errors that name the line."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_zoo import ModelNotFoundError, RegistryError, SignatureError
from model_zoo.boards import BOARDS
from model_zoo.errors import DownloadError
from model_zoo.footprint import parameters
from model_zoo.keys import PrivateKey
from model_zoo.recommend import suited_boards
from model_zoo.registry import Registry, load_registries, shipped_registry
from model_zoo.registry_file import _ARCHITECTURE, _MODEL, _SCHEME, RegistryEntry, parse_registry
from model_zoo.signing import SignaturePolicy, make_signature, signature_path
from tools import registry as writer

SIZES = "{ package_bytes = 10, weights_bytes = 5, kv_bytes_per_token = 1, runtime_bytes = 3 }"


def model(name: str = "helper", tag: str = "1b", /, **changes: str | None) -> str:
    """An entry as TOML; a change to `None` leaves a field out."""
    fields: dict[str, str | None] = {
        "name": f'"{name}"',
        "tag": f'"{tag}"',
        "repository": '"acme/helper"',
        "revision": '"main"',
        "licence": '"MIT"',
        "parameters": "1000",
        "context": "2048",
        "schemes.int4": SIZES,
        **changes,
    }
    return "[[model]]\n" + "".join(f"{key} = {value}\n" for key, value in fields.items() if value is not None)


def registry(*models: str, name: str = "acme") -> bytes:
    return ("\n".join([f'format = 1\nname = "{name}"\n', *(models or (model(),))])).encode()


def parse(content: bytes) -> tuple[RegistryEntry, ...]:
    return parse_registry(content, "r.toml")[1]


def problem(content: bytes) -> str:
    with pytest.raises(RegistryError) as error:
        parse(content)
    return str(error.value)


# --- the file ---


def test_an_entry_has_what_the_file_says() -> None:
    (entry,) = parse(registry(model(default="true", gated="true", summary='"Good."', boards='["pi5-4gb"]')))
    assert (entry.id, entry.default, entry.gated, entry.summary) == ("helper:1b", True, True, "Good.")
    assert (entry.repository, entry.revision, entry.licence) == ("acme/helper", "main", "MIT")
    assert (entry.parameters, entry.context, entry.package_context) == (1000, 2048, 2048)
    assert entry.schemes["int4"].package_bytes == 10
    assert entry.schemes["int4"].memory.total(2) == 5 + 2 * 1 + 3
    assert (entry.boards, entry.tasks, entry.registry) == (("pi5-4gb",), ("chat",), "acme")
    assert entry.checkpoint_bytes == 2000  # two bytes per weight unless the file knows better
    assert entry.source == "acme/helper@main"
    assert not entry.pinned
    (pinned,) = parse(registry(model(revision=f'"{"0a" * 20}"')))
    assert pinned.pinned


def test_sizes_follow_from_the_architecture_when_they_are_not_given() -> None:
    arch = (
        '{ name = "LlamaForCausalLM", vocab = 100, hidden = 64, layers = 1, heads = 2, kv_heads = 1, '
        "head_dim = 32, ffn = 128, tied = true }"
    )
    (entry,) = parse(registry(model(**{"schemes.int4": None, "architecture": arch})))
    assert list(entry.schemes) == ["int4", "int8", "fp16", "fp32"]
    assert entry.schemes["int8"].memory.kv_bytes_per_token == 1 * 2 * 1 * 32 * 4


@pytest.mark.parametrize("field", ["name", "licence", "parameters", "context", "revision"])
def test_a_missing_field_is_told_with_entry_field_and_line(field: str) -> None:
    content = registry(model("first"), model("second", **{field: None}))
    line = content.decode().splitlines().index("[[model]]", 5) + 1
    label = "model number 2" if field == "name" else "model second:1b"
    assert problem(content).startswith(f"r.toml: line {line}: {label}: {field} is missing; it must be ")


def test_a_missing_field_of_an_inner_table_is_told_at_that_table() -> None:
    content = registry(model(**{"schemes.int4": None}) + "[model.schemes.int4]\npackage_bytes = 1\n")
    line = content.decode().splitlines().index("[model.schemes.int4]") + 1
    assert problem(content) == (
        f"r.toml: line {line}: model helper:1b: schemes.int4.weights_bytes is missing; "
        "it must be a whole number above 0"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"context": '"8k"'}, "context must be the trained context in tokens, above 0, but it is '8k'"),
        ({"context": "true"}, "context must be the trained context in tokens, above 0, but it is True"),
        ({"parameters": "0"}, "parameters must be a whole number above 0, but it is 0"),
        ({"gatd": "true"}, "gatd is an unknown field; did you mean 'gated'?"),
        ({"zzz": "1"}, "zzz is an unknown field; known fields are name, tag, "),
        ({"repository": '"helper"'}, "repository must be a hub repository, 'owner/name', but it is 'helper'"),
        ({"name": '"Helper"'}, "name must be a short name in lower case"),
        ({"boards": "[1]"}, "boards must be a list of texts, but it is [1]"),
        ({"package_context": "4096"}, "package_context is 4096, more than the 2048 tokens of context"),
        ({"manifest_sha256": '"abc"'}, "manifest_sha256 must be 64 hexadecimal digits"),
    ],
)
def test_a_wrong_field_is_told_with_its_line_and_value(changes: dict[str, str], said: str) -> None:
    content = registry(model(), model("second", **changes))
    field = next(iter(changes))
    line = max(i for i, text in enumerate(content.decode().splitlines(), 1) if text.startswith(f"{field} ="))
    assert f"r.toml: line {line}: model" in problem(content)
    assert said in problem(content)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"repository": None, "revision": None}, "none of them"),
        ({"url": '"https://models.example/helper.edge"'}, "repository and url"),
    ],
)
def test_an_entry_has_exactly_one_source(changes: dict[str, str | None], found: str) -> None:
    assert (
        f"needs exactly one of repository, url and shipped (where it comes from), but has {found}"
        in problem(registry(model(**changes)))
    )


def test_sizes_or_an_architecture_are_needed() -> None:
    assert (
        "schemes is missing; give a table [model.schemes.NAME] of sizes, or [model.architecture]"
        in problem(registry(model(**{"schemes.int4": None})))
    )


def test_two_entries_with_one_id_and_two_defaults_of_one_name_are_refused() -> None:
    twice = problem(registry(model(), model()))
    assert re.search(r"line \d+: model helper:1b stands there twice, first at line 4", twice)
    defaults = problem(registry(model(default="true"), model("helper", "2b", default="true")))
    assert "model helper:2b is a second default of 'helper'; the first stands at line 4" in defaults


def test_other_files_are_refused_in_words() -> None:
    assert problem(b"\xff") == "r.toml: is not UTF-8 text: byte 0 cannot be decoded"
    assert problem(b"a = ").startswith("r.toml: is not valid TOML: ")
    assert "format is 2 but this release reads formats up to 1" in problem(b"format = 2")
    assert "the registry: format is missing" in problem(b'name = "a"\nmodel = []')
    assert "more than 4194304 is refused" in problem(b"#" * (4 << 20) + b"\n")
    assert "model number 1: must be a table of values" in problem(b'format = 1\nname = "a"\nmodel = [3]')


def test_lines_are_counted_past_texts_of_several_lines() -> None:
    content = registry(model(summary='"""\n[[model]]\ncontext = 1\n"""', context='"x"'))
    line = content.decode().splitlines().index('context = "x"') + 1
    assert f"line {line}: model helper:1b: context must be" in problem(content)


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_registry_or_a_registry_error(content: bytes) -> None:
    try:
        parse(content)
    except RegistryError as error:
        said = str(error)
    else:
        said = "r.toml: "
    assert said.startswith("r.toml: ")


# --- the installation's own ---


def test_the_installations_registry_holds_the_models_people_want() -> None:
    ids = {entry.id for entry in shipped_registry().entries()}
    wanted = (
        "smollm2:135m smollm2:360m qwen2.5:0.5b qwen2.5:1.5b qwen3:0.6b qwen3:1.7b llama3.2:1b llama3.2:3b"
    )
    assert ids >= {*wanted.split(), "gemma3:270m", "gemma3:1b", "phi4-mini:3.8b", "pocket"}


def test_every_entry_of_it_is_pinned_licensed_and_suits_some_board() -> None:
    for entry in shipped_registry().entries():
        assert entry.shipped or entry.pinned, entry.id
        assert entry.gated == (entry.licence in ("llama3.2", "gemma")), entry.id
        assert not entry.gated or entry.licence_url, entry.id
        assert entry.summary, entry.id
        assert entry.boards == suited_boards(entry), entry.id
        assert {board.rpartition("-")[0] or board for board in entry.boards} <= {
            name for board in BOARDS.values() for name in (board.name, board.name.rpartition("-")[0])
        }


def test_its_computed_parts_and_the_table_in_the_documentation_are_current() -> None:
    old = [path.name for path, text in writer.rendered().items() if path.read_text("utf-8") != text]
    assert not old, "run: python -m tools.registry"


# --- names ---


def loaded(tmp_path: Path, *contents: bytes, own: bytes | None = None, **options: object) -> Registry:
    """A registry of files, with `own` in the place of the installation's."""
    places = []
    for number, content in enumerate(contents):
        path = tmp_path / f"{number}.toml"
        path.write_bytes(content)
        places.append(str(path))
    shipped = tmp_path / "shipped.toml"
    shipped.write_bytes(own or registry(name="shipped"))
    return load_registries(places, shipped=shipped, **options)  # type: ignore[arg-type]


@pytest.fixture
def three(tmp_path: Path) -> Registry:
    sizes = [model("big", "1b", default="true"), model("big", "2b"), model("many", "1b"), model("many", "2b")]
    return loaded(tmp_path, own=registry(*sizes, model("one", "3b"), model("plain", ""), name="shipped"))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("big", "big:1b"),
        ("big:2b", "big:2b"),
        ("big-2b", "big:2b"),
        ("BIG:2B", "big:2b"),
        ("one", "one:3b"),
        ("plain", "plain"),
        ("shipped/big", "big:1b"),
        ("shipped/big:2b", "big:2b"),
    ],
)
def test_a_name_means_one_entry(three: Registry, name: str, wanted: str) -> None:
    assert three.resolve(name).id == wanted


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "many",
            "many: comes in several sizes; name one: many:1b (0 M parameters), many:2b (0 M parameters)",
        ),
        ("big:7b", "big:7b: there is no '7b' of big; there is big:1b or big:2b"),
        ("bgi", "bgi: no model of that name in any registry; did you mean 'big'?"),
        ("bgi:1b", "did you mean 'big:1b' or"),
        ("zzzzzz", "there are big:1b, big:2b, many:1b, many:2b, one:3b, plain"),
        (
            "other/big",
            "other/big: there is no registry 'other'; there are shipped. A repository of the hub is",
        ),
    ],
)
def test_what_is_no_name_is_told_with_the_nearest(three: Registry, name: str, said: str) -> None:
    with pytest.raises(ModelNotFoundError) as error:
        three.resolve(name)
    assert said in str(error.value)


@settings(deadline=None)
@given(st.text(max_size=20))
def test_any_text_is_a_name_or_not_found(name: str) -> None:
    try:
        found = OWN.resolve(name).name
    except ModelNotFoundError as error:
        found = str(error)
    assert found.startswith(name) or name.strip().lower().startswith((found, f"edge-runtime/{found}"))


OWN = shipped_registry()


# --- precedence and signatures ---


def signed(path: Path, key: PrivateKey) -> None:
    signature_path(path).write_bytes(make_signature(path.read_bytes(), key))


def test_an_unsigned_registry_adds_names_but_takes_none_over(tmp_path: Path) -> None:
    found = loaded(tmp_path, registry(model(parameters="5"), model("new")))
    assert found.resolve("helper").registry == "shipped"
    assert found.resolve("new").registry == "acme"
    assert found.resolve("acme/helper").parameters == 5
    assert [entry.id for entry in found.entries()] == ["helper:1b", "new:1b"]
    assert found.notices == (
        "helper:1b of registry 'acme' is hidden by that of 'shipped'; it is reached as acme/helper:1b",
    )


def test_a_registry_that_a_trusted_key_signed_comes_first(tmp_path: Path) -> None:
    key = PrivateKey.generate("Acme")
    path = tmp_path / "signed.toml"
    path.write_bytes(registry(model(parameters="7"), name="vouched"))
    signed(path, key)
    own, unsigned = tmp_path / "own.toml", tmp_path / "unsigned.toml"
    own.write_bytes(registry(name="shipped"))
    unsigned.write_bytes(registry(model(parameters="5")))
    policy = SignaturePolicy("warn", {key.public.id: key.public})
    found = load_registries([str(unsigned), str(path)], shipped=own, policy=policy)
    assert [source.name for source in found.sources] == ["vouched", "shipped", "acme"]
    assert [source.trusted for source in found.sources] == [True, True, False]
    winner = found.resolve("helper")
    assert (winner.parameters, winner.signed_by) == (7, "Acme")
    assert any("unsigned.toml: not signed" in notice for notice in found.notices)


def test_a_changed_byte_of_a_signed_registry_is_refused_under_every_policy(tmp_path: Path) -> None:
    key = PrivateKey.generate("Acme")
    path = tmp_path / "r.toml"
    path.write_bytes(registry())
    signed(path, key)
    path.write_bytes(path.read_bytes().replace(b"acme/helper", b"evil/helper"))
    for level in ("any", "warn", "required"):
        with pytest.raises(SignatureError, match=r"r\.toml: its signature is bad"):
            load_registries([str(path)], policy=SignaturePolicy(level, {key.public.id: key.public}))  # type: ignore[arg-type]


def test_an_unsigned_registry_is_refused_where_signatures_are_required(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(registry())
    with pytest.raises(SignatureError, match="allows only what a trusted key signed"):
        load_registries([str(path)], policy=SignaturePolicy("required"))


def test_two_registries_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"1\.toml: the registry calls itself 'acme', as .*0\.toml does"):
        loaded(tmp_path, registry(), registry())


def test_only_the_installation_can_say_that_a_model_is_shipped(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="helper:1b says that it is shipped"):
        loaded(tmp_path, registry(model(repository=None, revision=None, shipped='"pocket"')))


def test_a_registry_that_is_not_there_is_told_with_the_key_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(
        RegistryError, match=r"none\.toml: the registry cannot be read: No such file.*registries"
    ):
        load_registries([str(tmp_path / "none.toml")])


# --- addresses ---

URL = "https://models.example/registry.toml"


class Web:
    """A web of a few pages; `down` makes every request fail."""

    def __init__(self, **pages: bytes) -> None:
        self.pages = {URL: registry(), **pages}
        self.asked: list[str] = []
        self.down = False

    def fetch(self, url: str, most: int) -> bytes | None:
        self.asked.append(url)
        if self.down:
            raise DownloadError(f"{url}: models.example cannot be reached (Network is unreachable)")
        page = self.pages.get(url)
        assert page is None or len(page) <= most
        return page


@pytest.fixture
def web() -> Web:
    return Web()


@pytest.fixture
def load(tmp_path: Path, web: Web) -> Callable[..., Registry]:
    def at(seconds: float = 1_000_000.0, url: str = URL, policy: SignaturePolicy | None = None) -> Registry:
        return load_registries(
            [url], fetch=web.fetch, cache=tmp_path / "cache", now=lambda: seconds, policy=policy
        )

    return at


def test_a_fetched_registry_is_kept_for_a_day_and_asked_for_again_after(
    web: Web, load: Callable[..., Registry]
) -> None:
    assert load(0.0).resolve("acme/helper").id == "helper:1b"
    assert web.asked == [URL, URL + ".sig"]
    web.pages[URL] = registry(model("other"))
    assert load(3600.0).resolve("acme/helper").id == "helper:1b"
    assert len(web.asked) == 2
    assert load(25 * 3600.0).resolve("acme/other").id == "other:1b"


def test_without_a_network_the_kept_copy_is_used_and_its_age_told(
    web: Web, load: Callable[..., Registry]
) -> None:
    load(0.0)
    web.down = True
    found = load(10 * 86400.0)
    assert found.resolve("acme/helper").id == "helper:1b"
    (said,) = [notice for notice in found.notices if notice.startswith(URL)]
    assert said.endswith("(Network is unreachable). A copy of the registry 10 days old is used")


def test_without_network_and_copy_the_address_is_named(web: Web, load: Callable[..., Registry]) -> None:
    web.down = True
    with pytest.raises(RegistryError, match=r"\(Network is unreachable\)\. No copy of this registry is kept"):
        load()


def test_an_address_without_a_registry_is_named(load: Callable[..., Registry]) -> None:
    with pytest.raises(RegistryError, match=r"none\.toml: the server has no such registry"):
        load(url="https://models.example/none.toml")


def test_what_is_refused_does_not_replace_a_good_copy(web: Web, load: Callable[..., Registry]) -> None:
    load(0.0)
    web.pages[URL] = b"<html>log in first</html>"
    with pytest.raises(RegistryError, match="is not valid TOML"):
        load(30 * 3600.0)
    web.down = True
    assert load(31 * 3600.0).resolve("acme/helper").id == "helper:1b"


def test_a_damaged_copy_is_fetched_again(tmp_path: Path, web: Web, load: Callable[..., Registry]) -> None:
    load(0.0)
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:40])
    assert load(10.0).resolve("acme/helper").id == "helper:1b"
    assert len(web.asked) == 4


def test_a_kept_copy_keeps_its_signature(web: Web, load: Callable[..., Registry]) -> None:
    key = PrivateKey.generate("Acme")
    web.pages[URL + ".sig"] = make_signature(web.pages[URL], key)
    policy = SignaturePolicy("required", {key.public.id: key.public})
    for seconds in (0.0, 60.0):
        assert load(seconds, policy=policy).resolve("acme/helper").signed_by == "Acme"
    assert len(web.asked) == 2


def test_a_kept_copy_that_is_refused_is_asked_for_again(web: Web, load: Callable[..., Registry]) -> None:
    key = PrivateKey.generate("Acme")
    policy = SignaturePolicy("required", {key.public.id: key.public})
    load(0.0)
    with pytest.raises(SignatureError, match="allows only what a trusted key signed"):
        load(10.0, policy=policy)
    web.pages[URL + ".sig"] = make_signature(web.pages[URL], key)
    assert load(20.0, policy=policy).resolve("acme/helper").signed_by == "Acme"


def test_an_unencrypted_address_needs_a_trusted_signature(web: Web, load: Callable[..., Registry]) -> None:
    url = URL.replace("https", "http")
    web.pages[url] = registry()
    with pytest.raises(RegistryError, match="comes unencrypted and not signed, so anybody on the way"):
        load(url=url)
    key = PrivateKey.generate("Acme")
    web.pages[url + ".sig"] = make_signature(web.pages[url], key)
    with pytest.raises(RegistryError, match="comes unencrypted and signed by a key that is not trusted"):
        load(url=url)
    policy = SignaturePolicy("any", {key.public.id: key.public})
    assert load(url=url, policy=policy).resolve("acme/helper").signed_by == "Acme"


class Pages(BaseHTTPRequestHandler):
    """/r.toml is a registry, /moved.toml leads to it, /broken.toml is cut off, /busy.toml is a 503."""

    def do_GET(self) -> None:
        body = registry()
        status = {"/r.toml": 200, "/broken.toml": 200, "/moved.toml": 302, "/busy.toml": 503}.get(
            self.path, 404
        )
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/r.toml")
        self.send_header("Content-Length", str(len(body)) if status == 200 else "0")
        self.end_headers()
        if status == 200:
            self.wfile.write(body[:20] if self.path == "/broken.toml" else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("page", ["r.toml", "moved.toml"])
def test_a_registry_comes_over_http_with_redirects(tmp_path: Path, server: str, page: str) -> None:
    found = load_registries([f"{server}/{page}"], cache=tmp_path)
    assert found.resolve("acme/helper").id == "helper:1b"


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("none.toml", "the server has no such registry"),
        ("busy.toml", "the server says 503 Service Unavailable. No copy of this registry is kept"),
        ("broken.toml", "the connection broke"),
    ],
)
def test_a_server_that_fails_is_told_in_words(tmp_path: Path, server: str, page: str, said: str) -> None:
    with pytest.raises(RegistryError, match=said):
        load_registries([f"{server}/{page}"], cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_server_that_nobody_runs_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1 cannot be reached \(Connection refused\)"):
        load_registries(["http://127.0.0.1:1/r.toml"], cache=tmp_path)


# --- the documentation ---


def test_the_registry_that_the_documentation_shows_is_one() -> None:
    page = writer.PAGE.read_text(encoding="utf-8")
    shown = next(block for block in re.findall(r"```toml\n(.*?)```", page, re.DOTALL) if "[[model]]" in block)
    (entry,) = parse_registry(shown.encode(), "docs/zoo.md")[1]
    assert entry.architecture is not None
    assert parameters(entry.architecture) == entry.parameters
    fields = re.search(r"\| field \| meaning \|\n(.*?)\n\n", page, re.DOTALL)
    assert fields is not None
    told = set(re.findall(r"`([a-z0-9_]+)[`.]", fields.group(1)))
    assert told >= {*_MODEL, *_SCHEME, *_ARCHITECTURE} - {"shipped"}, "a field is not in docs/zoo.md"
