"""`models pull`: nothing before it fits, whole or not at all, resumed, once, and then it runs."""

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from misbehaving import Handler, Server, answer, cut, serving, status
from stand_in_hub import COMMIT, downloads, files_of, publish

from edge_runtime.cli import cli
from model_zoo import PackageWriter, PrivateKey, SignaturePolicy, pack, sign_package
from model_zoo.converters import Needs, find_converter
from model_zoo.errors import (
    DownloadError,
    HubError,
    ModelNotFoundError,
    PackageError,
    PullError,
    SignatureError,
    StoreError,
)
from model_zoo.http import Transport
from model_zoo.hub import HubId, HubSettings
from model_zoo.manifest import Manifest, Memory, read_manifest
from model_zoo.prune import prune
from model_zoo.pull import Options, Place, Silent, pull, resolve
from model_zoo.pull_package import peek
from model_zoo.registry import shipped_registry
from model_zoo.registry_file import RegistryEntry
from model_zoo.room import Device
from tools.make_checkpoint import PRESETS, make_checkpoint

Make = Callable[..., Path]
MIB = 1 << 20
WEIGHTS = bytes(range(256)) * 8192
FILES = {"config.json": b'{"model_type": "llama"}', "tokenizer.json": b"{}", "model.safetensors": WEIGHTS}
TINY = HubId("owner/Tiny", "main")


async def at_once(seconds: float) -> None:
    pass


QUICK = Transport(attempts=3, sleep=at_once, connect_s=5, stall_s=5, proxy=lambda url: None)


@dataclass
class Converter:
    """Packs the weights as they are, and remembers what it was asked for."""

    fields: Callable[..., dict[str, Any]]
    asked: list[Mapping[str, Any]] = field(default_factory=list)
    patterns: tuple[str, ...] = ("config.json", "tokenizer.json", "model*.safetensors")
    schemes: tuple[str, ...] = ("int4", "int8")
    memory: Memory = field(default_factory=lambda: Memory(4 * MIB, 1024, 8 * MIB))
    fails: bool = False

    def needs(self, config: Mapping[str, Any], scheme: str, context_length: int | None) -> Needs:
        assert config == {"model_type": "llama"}
        return Needs(3 * MIB, self.memory, 10 * MIB)

    def convert(self, checkpoint: Path, target: Path, **what: Any) -> Manifest:
        self.asked.append(what)
        if self.fails:
            raise OSError(28, "No space left on device")
        with PackageWriter(target, overwrite=what["overwrite"]) as writer:
            writer.copy("model.onnx", checkpoint / "model.safetensors")
            source = {
                **self.fields()["source"],
                "repository": what["repository"],
                "revision": what["revision"],
            }
            scheme = {"scheme": what["scheme"], "method": "rtn", "bits": 4, "block_size": 32}
            changes = {"id": what["model_id"], "source": source, "quantization": scheme}
            return writer.commit(self.fields(**changes))


class Steps(Silent):
    """Keeps the sentences."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def step(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as state:
        publish(state, "owner/Tiny", FILES)
        yield state


@pytest.fixture
def converter(fields: Callable[..., dict[str, Any]]) -> Converter:
    return Converter(fields)


@pytest.fixture
def place(server: Server, models: Path, tmp_path: Path, converter: Converter) -> Place:
    return Place(
        models=models,
        hub=HubSettings(tmp_path / "cache", server.url),
        transport=QUICK,
        converter=lambda: converter,
        device=Device(1 << 30, lambda folder: 1 << 40),
        report=Steps(),
    )


def entry_of(**changes: Any) -> RegistryEntry:
    """The registry's smallest model, of our repository."""
    return replace(shipped_registry().resolve("smollm2:135m"), repository=TINY.repository, **changes)


def left_in(models: Path) -> list[str]:
    return sorted(path.relative_to(models).as_posix() for path in (models / ".downloads").rglob("*"))


# --- a checkpoint becomes a package -------------------------------------------------------------------------


def test_a_repository_is_fetched_converted_and_installed_and_the_checkpoint_goes(
    server: Server, place: Place, models: Path, converter: Converter
) -> None:
    done = pull(TINY, None, place)
    assert (done.name, done.action, done.path) == ("tiny", "installed", models / "tiny")
    assert (done.path / "model.onnx").read_bytes() == WEIGHTS
    assert done.downloaded == len(WEIGHTS) + 2  # config.json was looked at before
    assert done.manifest.source.revision == COMMIT
    assert sorted(downloads(server)) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert left_in(models) == []
    (asked,) = converter.asked
    assert (asked["scheme"], asked["model_id"], asked["overwrite"]) == ("int4", "tiny", False)


def test_an_entry_of_a_registry_gives_name_revision_and_scheme(
    place: Place, server: Server, models: Path
) -> None:
    publish(server, "owner/Tiny", FILES, commit="a" * 40)
    done = pull(entry_of(revision="a" * 40), Options(scheme="int8"), place)
    assert (done.name, done.path) == ("smollm2:135m", models / "smollm2-135m")
    assert (done.manifest.source.revision, done.manifest.quantization.scheme) == ("a" * 40, "int8")
    assert done.notes == ()


def test_an_entry_without_a_commit_says_that_the_present_one_was_taken(place: Place) -> None:
    (note,) = pull(entry_of(revision="main"), None, place).notes
    assert "pins no commit of owner/Tiny" in note


def test_where_signatures_are_required_a_package_made_here_is_installed_and_told_to_be_signed(
    place: Place,
) -> None:
    (note,) = pull(TINY, None, replace(place, policy=SignaturePolicy("required"))).notes
    assert "sign it yourself with edge-runtime models sign tiny --key FILE" in note


def test_what_is_installed_at_that_revision_is_left_alone(
    server: Server, place: Place, converter: Converter
) -> None:
    pull(TINY, None, place)
    server.requests.clear()
    assert pull(TINY, None, place).action == "present"
    assert downloads(server) == []  # only asked whether there is a newer one
    server.requests.clear()
    assert pull(TINY._replace(revision=COMMIT), None, place).action == "present"
    assert server.requests == []  # a commit does not change
    assert pull(TINY, Options(force=True), place).action == "updated"
    assert len(converter.asked) == 2


def test_a_newer_revision_and_another_scheme_replace_the_package(server: Server, place: Place) -> None:
    pull(TINY, Options(scheme="int8"), place)
    publish(server, "owner/Tiny", {**FILES, "model.safetensors": WEIGHTS + b"!"}, commit="b" * 40)
    newer = pull(TINY, None, place)
    assert newer.action == "updated"
    assert newer.manifest.source.revision == "b" * 40
    assert newer.manifest.quantization.scheme == "int8"  # kept, since nothing else was asked for
    assert pull(TINY, Options(scheme="int4"), place).manifest.quantization.scheme == "int4"


def test_a_package_from_elsewhere_is_not_replaced_unless_forced(
    place: Place, models: Path, make: Make
) -> None:
    make(models / "tiny")
    with pytest.raises(PullError, match=r"was made from example/tiny, not owner/Tiny.*--name.*--force"):
        pull(TINY, None, place)
    assert pull(TINY, Options(name="other"), place).path == models / "other"
    assert pull(TINY, Options(force=True), place).action == "updated"


def test_offline_an_installed_package_is_good_enough(server: Server, place: Place) -> None:
    pull(TINY, None, place)
    offline = replace(place, hub=replace(place.hub, offline=True))
    done = pull(TINY, None, offline)
    assert done.action == "present"
    assert "HF_HUB_OFFLINE is set: whether there is a newer revision is not known" in done.notes[0]
    with pytest.raises(HubError, match=r"other: HF_HUB_OFFLINE is set, and it is not installed\. Unset"):
        pull(TINY, Options(name="other"), offline)


def test_a_checkpoint_in_the_hubs_cache_is_used_from_there_and_stays(server: Server, place: Place) -> None:
    pull(TINY, Options(keep_checkpoint=True), place)
    assert list(place.hub.cache_dir.rglob("model.safetensors"))
    server.requests.clear()
    pull(TINY, Options(name="again"), place)
    assert downloads(server) == []
    assert list(place.hub.cache_dir.rglob("model.safetensors"))


# --- refused before anything is downloaded ------------------------------------------------------------------


def free(count: int) -> Callable[[Path], int]:
    return lambda folder: count


@pytest.mark.parametrize(
    ("source", "numbers"),
    [
        (TINY, r"checkpoint 2.0 MiB \+ package 3.0 MiB \+ 16.0 MiB to spare = 21.0 MiB .* 20.0 MiB are"),
        (
            entry_of(),
            r"checkpoint 256.6 MiB \+ package 90.3 MiB .* Free 342.8 MiB \(edge-runtime models prune\)",
        ),
    ],
)
def test_too_little_disk_is_said_with_every_number(
    server: Server, place: Place, models: Path, source: HubId | RegistryEntry, numbers: str
) -> None:
    small = replace(place, device=Device(None, free(20 * MIB)))
    with pytest.raises(PullError, match=f"too little disk: {numbers}.*Nothing was downloaded"):
        pull(source, None, small)
    assert "model.safetensors" not in downloads(server)
    assert left_in(models) == []


def test_too_little_memory_to_run_it_is_said_with_every_number(
    server: Server, place: Place, models: Path
) -> None:
    small = replace(place, device=Device(13 * MIB, free(1 << 40)))
    with pytest.raises(
        PullError,
        match=r"tiny: too little memory to run it: weights 4.0 MiB \+ KV cache of 2,048 tokens 2.0 MiB \+ "
        r"runtime 8.0 MiB = 14.0 MiB are needed, and 13.0 MiB are available\. .*--ignore-memory",
    ):
        pull(TINY, None, small)
    assert downloads(server) == ["config.json"]
    assert left_in(models) == []
    assert pull(TINY, Options(ignore_memory=True), small).action == "installed"


def test_an_entry_that_cannot_run_here_is_refused_without_asking_anybody(
    server: Server, place: Place
) -> None:
    with pytest.raises(PullError, match=r"smollm2:135m: too little memory .*models recommend"):
        pull(entry_of(), None, replace(place, device=Device(64 * MIB, free(1 << 40))))
    assert server.requests == []


def test_too_little_memory_to_quantize_it_is_said(place: Place, converter: Converter) -> None:
    converter.memory = Memory(MIB, 16, MIB)
    with pytest.raises(PullError, match=r"to quantize it: 10.0 MiB are needed, and 9.0 MiB are available"):
        pull(TINY, None, replace(place, device=Device(9 * MIB, free(1 << 40))))


def test_a_gated_model_says_what_to_do_before_it_is_fetched(server: Server, place: Place) -> None:
    publish(server, "owner/Tiny", FILES, gated="manual")
    with pytest.raises(HubError, match=r"owner/Tiny is gated.*Open http.*/owner/Tiny.*accept.*HF_TOKEN"):
        pull(TINY, None, place)
    assert downloads(server) == []
    with_token = replace(place, hub=replace(place.hub, token="hf_x"))
    assert pull(TINY, None, with_token).action == "installed"


def test_a_token_whose_owner_has_not_accepted_the_terms_says_the_same(server: Server, place: Place) -> None:
    publish(server, "owner/Tiny", FILES, gated="auto")
    server.script = [lambda handler: answer(handler, None), status(403, X_Error_Code="GatedRepo")]
    with pytest.raises(HubError, match="owner/Tiny is gated"):
        pull(TINY, None, replace(place, hub=replace(place.hub, token="hf_x")))


def test_a_repository_without_safetensors_and_an_unknown_scheme_are_refused(
    server: Server, place: Place
) -> None:
    publish(server, "owner/Tiny", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    with pytest.raises(HubError, match="no weights in safetensors format"):
        pull(TINY, None, place)
    with pytest.raises(PullError, match="tiny: there is no scheme 'int3'; there are int4, int8"):
        pull(TINY, Options(scheme="int3"), place)


def test_names_are_told_apart(place: Place) -> None:
    registry = shipped_registry
    assert resolve("owner/Tiny@v1", registry) == HubId("owner/Tiny", "v1")
    assert resolve("https://example.org/tiny.edge", registry) == "https://example.org/tiny.edge"
    found = resolve("smollm2:135m", registry)
    assert isinstance(found, RegistryEntry)
    assert resolve(f"{found.registry}/smollm2:135m", registry) == found
    with pytest.raises(ModelNotFoundError, match="smollm2"):
        resolve("smolm2", registry)


# --- broken off, and at once --------------------------------------------------------------------------------


def test_a_pull_that_breaks_off_goes_on_where_it_stopped(server: Server, place: Place, models: Path) -> None:
    one = replace(place, transport=replace(QUICK, attempts=1, connections=1))
    honest: Callable[[Handler], None] = lambda handler: answer(handler, None)  # noqa: E731
    server.script = [honest, honest, honest, cut(1_500_000)]
    with pytest.raises(HubError, match=r"owner/Tiny: the download broke off: .*run the same command again"):
        pull(TINY, None, one)
    assert not (models / "tiny").exists()
    server.requests.clear()
    done = pull(TINY, None, one)
    assert server.ranges()[-1] == "bytes=1500000-"
    assert done.downloaded == len(WEIGHTS) - 1_500_000
    assert (models / "tiny" / "model.onnx").read_bytes() == WEIGHTS
    assert left_in(models) == []


def test_what_was_fetched_survives_a_conversion_that_fails(
    server: Server, place: Place, models: Path, converter: Converter
) -> None:
    converter.fails = True
    with pytest.raises(OSError, match="No space left"):
        pull(TINY, None, place)
    converter.fails = False
    server.requests.clear()
    pull(TINY, None, place)
    assert downloads(server) == []


def test_what_a_pull_works_with_is_not_pruned(
    server: Server, place: Place, models: Path, tmp_path: Path, converter: Converter
) -> None:
    kept = []

    class Prunes(Silent):
        def step(self, text: str) -> None:
            kept.extend(prune(models=models, cache=tmp_path / "unpacked").kept)

    assert pull(TINY, None, replace(place, report=Prunes())).action == "installed"
    assert {item.path.name for item in kept} == {"tiny"}
    server.script = [lambda handler: answer(handler, None)] * 3 + [cut(1_500_000), *[status(503)] * 9]
    with pytest.raises(HubError, match="broke off"):
        pull(TINY, Options(name="half"), replace(place, transport=replace(QUICK, connections=1)))
    (gone,) = prune(models=models, cache=tmp_path / "unpacked").removed
    assert gone.path.name == "half"  # nobody goes on with it


def test_two_pulls_of_one_model_at_once_both_succeed_and_one_of_them_works(
    server: Server, place: Place, converter: Converter
) -> None:
    begun, waiting = threading.Event(), threading.Event()
    steps = Steps()

    def slowly(handler: Handler) -> None:
        begun.set()
        assert waiting.wait(20)
        answer(handler, None)

    class Waits(Silent):
        def step(self, text: str) -> None:
            steps.step(text)
            waiting.set()

    server.script = [slowly]
    found = []
    first = threading.Thread(target=lambda: found.append(pull(TINY, None, place)))
    first.start()
    assert begun.wait(20)
    second = pull(TINY, None, replace(place, report=Waits()))
    first.join(20)
    assert [found[0].action, second.action] == ["installed", "present"]
    assert len(converter.asked) == 1
    assert steps.said[0] == "another pull of this model is running; waiting for it"


# --- ready packages -----------------------------------------------------------------------------------------


@pytest.fixture
def ready(tmp_path: Path, make: Make) -> Path:
    return make(tmp_path / "made" / "tiny", weights=bytes(range(256)) * 8000, id="tiny:1m")


def offer(server: Server, folder: Path) -> str:
    for path in folder.rglob("*"):
        if path.is_file():
            server.files[f"/pkg/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    return f"{server.url}/pkg"


def offer_file(server: Server, folder: Path) -> str:
    server.files["/tiny.edge"] = pack(folder, folder.with_suffix(".edge"), overwrite=True).read_bytes()
    return f"{server.url}/tiny.edge"


@pytest.mark.parametrize("kind", [offer, offer_file])
def test_a_ready_package_is_installed_byte_by_byte(
    server: Server, place: Place, models: Path, ready: Path, kind: Callable[[Server, Path], str]
) -> None:
    done = pull(kind(server, ready), None, place)
    assert (done.name, done.action, done.path) == ("tiny:1m", "installed", models / "tiny-1m")
    assert files_of(done.path) == files_of(ready)
    assert (done.path / "docs" / "LICENSE").read_text() == "Apache-2.0"
    assert done.signature is not None
    assert done.signature.status == "unsigned"
    assert left_in(models) == []
    again = pull(kind(server, ready), None, place)
    assert (again.action, again.downloaded) == ("present", 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(scheme="int8"), "is a ready package of scheme int4; leave out --scheme"),
        (Options(revision="v2"), "not a checkpoint; leave out --revision"),
        (Options(context_length=64), "not a checkpoint; leave out --context"),
        (Options(keep_checkpoint=True), "not a checkpoint; leave out --keep-checkpoint"),
    ],
)
def test_what_only_a_checkpoint_can_have_is_refused_for_a_ready_package(
    server: Server, place: Place, ready: Path, options: Options, message: str
) -> None:
    with pytest.raises(PullError, match=message):
        pull(offer(server, ready), options, place)


def test_the_address_of_the_manifest_means_its_folder(server: Server, place: Place, ready: Path) -> None:
    assert pull(offer(server, ready) + "/manifest.json", None, place).action == "installed"


@pytest.mark.parametrize("kind", [offer, offer_file])
def test_a_newer_package_of_the_same_source_replaces_the_older(
    server: Server, place: Place, ready: Path, make: Make, kind: Callable[[Server, Path], str]
) -> None:
    pull(kind(server, ready), None, place)
    make(ready, weights=b"new" * 100, overwrite=True, id="tiny:1m")
    done = pull(kind(server, ready), None, place)
    assert done.action == "updated"
    assert (done.path / "model.onnx").read_bytes() == b"new" * 100


@pytest.mark.parametrize("kind", [offer, offer_file])
def test_signatures_are_looked_at_before_anything_else_is_fetched(
    server: Server, place: Place, ready: Path, kind: Callable[[Server, Path], str]
) -> None:
    required = replace(place, policy=SignaturePolicy("required"))
    with pytest.raises(SignatureError, match="not signed"):
        pull(kind(server, ready), None, required)
    asked = [path for path, _ in server.requests]
    assert asked in (["/pkg/manifest.json", "/pkg/manifest.sig"], ["/tiny.edge"])
    key = PrivateKey.generate()
    sign_package(ready, key)
    trusting = replace(place, policy=SignaturePolicy("required", {key.public.id: key.public}))
    done = pull(kind(server, ready), None, trusting)
    assert done.signature is not None
    assert done.signature.status == "trusted"
    assert (done.path / "manifest.sig").read_bytes() == (ready / "manifest.sig").read_bytes()


def test_a_bad_signature_is_refused_whatever_the_policy(server: Server, place: Place, ready: Path) -> None:
    sign_package(ready, PrivateKey.generate())
    url = offer(server, ready)
    server.files["/pkg/manifest.sig"] = server.files["/pkg/manifest.sig"].replace(b"ed25519", b"ed25518")
    with pytest.raises(SignatureError, match="its signature is bad"):
        pull(url, None, place)


def test_a_damaged_file_of_a_folder_is_refused(
    server: Server, place: Place, models: Path, ready: Path
) -> None:
    url = offer(server, ready)
    server.files["/pkg/model.onnx"] = bytes(len(server.files["/pkg/model.onnx"]))
    with pytest.raises(DownloadError, match=r"model\.onnx: arrived damaged"):
        pull(url, None, place)
    assert not (models / "tiny-1m").exists()


def test_a_damaged_archive_is_refused_and_fetched_again_the_next_time(
    server: Server, place: Place, models: Path, ready: Path
) -> None:
    url = offer_file(server, ready)
    whole = server.files["/tiny.edge"]
    server.files["/tiny.edge"] = whole[:50_000] + bytes(100) + whole[50_100:]
    with pytest.raises(PackageError, match=rf"{url}: arrived damaged and was removed: "):
        pull(url, None, place)
    server.files["/tiny.edge"] = whole
    assert pull(url, None, place).action == "installed"


def test_a_broken_off_package_resumes(server: Server, place: Place, ready: Path) -> None:
    one = replace(place, transport=replace(QUICK, attempts=1))
    url = offer_file(server, ready)
    honest: Callable[[Handler], None] = lambda handler: answer(handler, None)  # noqa: E731
    server.script = [honest, cut(1_200_000)]
    with pytest.raises(DownloadError, match=r"tiny\.edge are kept: run the same command again to resume"):
        pull(url, None, one)
    pull(url, None, one)
    assert server.ranges()[-1] == "bytes=1200000-"


@pytest.mark.parametrize("kind", [offer, offer_file])
def test_a_package_that_has_no_room_is_refused_before_it_is_fetched(
    server: Server, place: Place, models: Path, ready: Path, kind: Callable[[Server, Path], str]
) -> None:
    url = kind(server, ready)
    with pytest.raises(PullError, match=r"tiny:1m: too little disk: .*package 2.0 MiB"):
        pull(url, None, replace(place, device=Device(None, free(MIB))))
    with pytest.raises(PullError, match=r"tiny:1m: too little memory to run it: weights 5.0 KiB"):
        pull(url, None, replace(place, device=Device(4 << 10, free(1 << 40))))
    assert "/pkg/model.onnx" not in [path for path, _ in server.requests]
    assert left_in(models) == []


def test_a_registry_can_pin_the_manifest_of_an_address(server: Server, place: Place, ready: Path) -> None:
    url = offer(server, ready)
    raw = read_manifest(ready)[1]
    pinned = entry_of(url=url, manifest_sha256=hashlib.sha256(raw).hexdigest())
    pinned = replace(pinned, repository=None)
    with pytest.raises(DownloadError, match=r"not the one that the registry names .*expected 0000"):
        pull(replace(pinned, manifest_sha256="0" * 64), None, place)
    assert pull(pinned, None, place).action == "installed"


def test_what_comes_in_the_clear_must_be_vouched_for(place: Place, ready: Path) -> None:
    from model_zoo.pull_package import _Folder

    raw = read_manifest(ready)[1]
    there = _Folder("http://models.example/tiny", None, Options(), place, ready)
    with pytest.raises(DownloadError, match=r"comes unencrypted and not signed.*https"):
        there._allowed(raw, None)
    safe = _Folder("https://models.example/tiny", None, Options(), place, ready)
    assert safe._allowed(raw, None)[1].status == "unsigned"


def test_the_manifest_is_seen_in_the_first_bytes_of_an_archive(ready: Path) -> None:
    raw = read_manifest(ready)[1]
    start = pack(ready, ready.with_suffix(".edge")).read_bytes()[: len(raw) + 200]
    assert peek(start) == (raw, None)
    assert peek(start[: len(raw)]) is None
    assert peek(b"PK\x03\x04 and nonsense" * 3) is None
    sign_package(ready, PrivateKey.generate())
    signed = pack(ready, ready.with_suffix(".edge"), overwrite=True).read_bytes()[: len(raw) + 2000]
    assert peek(signed) == (raw, (ready / "manifest.sig").read_bytes())


def test_an_address_without_a_package_is_said(server: Server, place: Place) -> None:
    with pytest.raises(DownloadError, match=r"/none/manifest.json: the server says 404"):
        pull(f"{server.url}/none", None, place)


def test_a_full_disk_keeps_what_arrived(server: Server, place: Place, small_disk: Path, ready: Path) -> None:
    cramped = replace(place, models=small_disk)
    with pytest.raises(StoreError, match=r"No space left.*What has arrived is kept"):
        pull(offer_file(server, ready), None, cramped)


# --- the whole way, as a person goes it ---------------------------------------------------------------------


def edge(*args: str, **environment: str) -> Result:
    return CliRunner().invoke(cli, [*args], prog_name="edge-runtime", env=environment)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    config = {**PRESETS["tiny"], "vocab_size": 320}
    return make_checkpoint(tmp_path / "checkpoint", config, dtype="BF16")


def test_a_model_is_pulled_by_name_from_a_registry_and_runs(
    server: Server, checkpoint: Path, models: Path, tmp_path: Path
) -> None:
    publish(server, "example/tiny-llama", files_of(checkpoint), commit="c" * 40)
    registry = tmp_path / "mine.toml"
    registry.write_text(
        'format = 1\nname = "mine"\n[[model]]\nname = "tinyllama"\ntag = "0.1m"\n'
        f'repository = "example/tiny-llama"\nrevision = "{"c" * 40}"\nlicence = "Apache-2.0"\n'
        "parameters = 124000\ncontext = 512\ntokenizer_bytes = 9000\n"
        'architecture = { name = "LlamaForCausalLM", vocab = 320, hidden = 64, layers = 2, heads = 4, '
        "kv_heads = 2, head_dim = 16, ffn = 192, tied = true }\n"
    )
    environment = {"HF_ENDPOINT": server.url, "EDGE_MODELS_REGISTRIES": str(registry)}
    found = edge("models", "pull", "tinyllama", "--json", **environment)
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)
    assert (said["name"], said["action"], said["scheme"]) == ("tinyllama:0.1m", "installed", "int4")
    assert said["downloaded_bytes"] > 0
    assert said["manifest"]["source"]["repository"] == "example/tiny-llama"
    answered = edge("run", "--model", "tinyllama:0.1m", "--max-tokens", "3", "--json", "hello")
    assert answered.exit_code == 0, answered.output
    assert json.loads(answered.stdout)["model_id"] == "tinyllama:0.1m"
    again = edge("models", "pull", "tinyllama:0.1m", **environment)
    assert "is installed already, at revision cccc" in again.stdout


def test_the_estimate_before_a_pull_is_the_package_that_comes_of_it(
    server: Server, checkpoint: Path, models: Path
) -> None:
    publish(server, "example/tiny-llama", files_of(checkpoint))
    converter = find_converter()
    config = json.loads((checkpoint / "config.json").read_text())
    for scheme in converter.schemes:
        place = Place(models=models, hub=HubSettings(models / "cache", server.url), transport=QUICK)
        made = pull(HubId("example/tiny-llama", "main"), Options(scheme=scheme), place).manifest
        needs = converter.needs(config, scheme, None)
        graph_and_weights = sum(made.files[name].size for name in ("model.onnx", "model.onnx.data"))
        assert needs.memory == made.memory
        assert abs(needs.package_bytes - graph_and_weights) < 4096


def test_unknown_names_and_gated_models_end_with_their_own_exit_code(server: Server, models: Path) -> None:
    unknown = edge("models", "pull", "smollm2:1m")
    assert (unknown.exit_code, unknown.stdout) == (4, "")
    assert "smollm2" in unknown.stderr
    publish(server, "owner/Tiny", FILES, gated="manual")
    gated = edge("models", "pull", "owner/Tiny", HF_ENDPOINT=server.url)
    assert gated.exit_code == 4
    assert "is gated" in gated.stderr


def test_a_shipped_model_needs_no_fetching() -> None:
    found = edge("models", "pull", "pocket")
    assert found.exit_code == 0, found.output
    assert "pocket" in found.stdout
    assert "is shipped with the program; there is nothing to fetch" in found.stdout


def test_what_is_on_this_device_is_not_pulled_but_named_with_what_to_do(tmp_path: Path, models: Path) -> None:
    (tmp_path / "tiny.edge").write_bytes(b"")
    found = edge("models", "pull", str(tmp_path / "tiny.edge"))
    assert found.exit_code == 2
    assert "is on this device already" in found.stderr


def test_a_person_at_a_terminal_sees_the_steps_above_the_bars(
    server: Server, checkpoint: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_runtime.cli.output.stderr_is_terminal", lambda: True)
    publish(server, "example/tiny-llama", files_of(checkpoint))
    found = edge("models", "pull", "example/tiny-llama", HF_ENDPOINT=server.url)
    assert found.exit_code == 0, found.output
    assert "example/tiny-llama@0123456789ab: " in found.stderr
    assert "to download" in found.stderr
    assert "quantizing to int4" in found.stderr
    assert found.stdout.startswith("installed tiny-llama (int4, ")


PULL = """
import sys
from edge_runtime.cli import main
main(["models", "pull", sys.argv[1], "--ignore-memory"])
"""


def test_killed_while_it_downloads_the_same_command_finishes(
    server: Server, checkpoint: Path, models: Path, tmp_path: Path
) -> None:
    import os
    import signal

    files = files_of(checkpoint)
    publish(server, "example/tiny-llama", files)
    environment = {**os.environ, "HF_ENDPOINT": server.url, "EDGE_MODELS_DIR": str(models)}
    started = threading.Event()
    process: list[subprocess.Popen[bytes]] = []

    def kill_in_the_middle(handler: Handler) -> None:
        body = handler.body or b""
        if not handler.path.endswith("model.safetensors"):
            server.script.append(kill_in_the_middle)
            return answer(handler, None)
        handler.send(200, body[: len(body) // 2], len(body), **handler.validators())
        handler.wfile.flush()
        assert started.wait(20)
        partials = (p for p in models.rglob("*.edge-runtime-partial") if p.stat().st_size >= len(body) // 2)
        while next(partials, None) is None:
            partials = (
                p for p in models.rglob("*.edge-runtime-partial") if p.stat().st_size >= len(body) // 2
            )
        process[0].send_signal(signal.SIGKILL)
        return handler.hang_up()

    server.script = [kill_in_the_middle]
    process.append(subprocess.Popen([sys.executable, "-c", PULL, "example/tiny-llama"], env=environment))
    started.set()
    assert process[0].wait(60) == -signal.SIGKILL
    assert not (models / "tiny-llama").exists()
    server.script.clear()
    server.requests.clear()
    done = subprocess.run(
        [sys.executable, "-c", PULL, "example/tiny-llama"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "installed tiny-llama" in done.stdout
    half = len(files["model.safetensors"]) // 2
    assert f"bytes={half}-" in server.ranges()
