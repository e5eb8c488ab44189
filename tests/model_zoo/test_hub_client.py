"""The hub's client: its cache is the one other programs know, and a refusal says what to do."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from misbehaving import Server, cut, serving, status
from stand_in_hub import COMMIT, downloads, git_sha1, publish

from model_zoo.errors import HubError
from model_zoo.http import Transport
from model_zoo.hub import Hub, HubFile, HubId, HubSettings, HubUnreachableError, parse_id, select

WEIGHTS = random.Random(5).randbytes(5000)
FILES = {"config.json": b'{"model_type": "llama"}', "model.safetensors": WEIGHTS, "other/x.bin": b"x"}
TINY = HubId("owner/tiny", "main")


async def at_once(seconds: float) -> None:
    pass


QUICK = Transport(attempts=3, sleep=at_once, connect_s=5, stall_s=5, proxy=lambda url: None)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as state:
        publish(state, "owner/tiny", FILES)
        yield state


def hub_of(server: Server, cache: Path, **settings: object) -> Hub:
    return Hub(HubSettings(cache, server.url, **settings), QUICK)  # type: ignore[arg-type]


def fetch(hub: Hub, name: HubId = TINY) -> Path:
    info = hub.info(name)
    return hub.fetch(info, select(info.files, ["*.json", "*.safetensors"]))


def test_an_id_is_told_from_a_path() -> None:
    assert parse_id("owner/tiny") == TINY
    assert parse_id("hf://owner/Tiny-1.5B@refs/pr/3") == ("owner/Tiny-1.5B", "refs/pr/3")
    for text in ("tiny", "./owner/tiny", "/models/tiny", "a/b/c", "../tiny", "owner/..", "owner/tiny@", ""):
        assert parse_id(text) is None


def test_what_a_repository_holds_is_told_with_sizes_and_hashes(server: Server, tmp_path: Path) -> None:
    info = hub_of(server, tmp_path).info(TINY)
    assert info.commit == COMMIT
    assert not info.gated
    config, weights, _ = info.files
    assert config == HubFile("config.json", 23, None, git_sha1(FILES["config.json"]))
    assert (weights.size, weights.git_sha1, len(weights.sha256 or "")) == (5000, None, 64)
    assert [file.name for file in select(info.files, ["*"])] == ["config.json", "model.safetensors"]


def test_the_cache_has_the_layout_that_huggingface_hub_reads(server: Server, tmp_path: Path) -> None:
    library = pytest.importorskip("huggingface_hub")
    hub = hub_of(server, tmp_path)
    folder = fetch(hub)
    assert folder == tmp_path / "models--owner--tiny" / "snapshots" / COMMIT
    assert (folder / "model.safetensors").is_symlink()
    found = library.snapshot_download("owner/tiny", cache_dir=tmp_path, local_files_only=True)
    assert Path(found) == folder
    weights = library.hf_hub_download(
        "owner/tiny", "model.safetensors", cache_dir=tmp_path, local_files_only=True
    )
    assert Path(weights).read_bytes() == WEIGHTS
    (repository,) = library.scan_cache_dir(tmp_path).repos
    (revision,) = repository.revisions
    assert (revision.commit_hash, revision.refs) == (COMMIT, {"main"})
    assert {file.file_name for file in revision.files} == {"config.json", "model.safetensors"}


def test_what_is_in_the_cache_is_neither_fetched_nor_counted_again(server: Server, tmp_path: Path) -> None:
    hub = hub_of(server, tmp_path)
    info = hub.info(TINY)
    wanted = select(info.files, ["*"])
    assert hub.missing_bytes(info, wanted) == 5023
    assert hub.holds(info, wanted) is None
    folder = fetch(hub)
    assert hub.missing_bytes(info, wanted) == 0
    assert hub.holds(info, wanted) == hub.cached(TINY) == folder
    server.requests.clear()
    assert fetch(hub) == folder
    assert downloads(server) == []


def test_a_broken_download_resumes_and_small_files_come_first(server: Server, tmp_path: Path) -> None:
    hub = Hub(HubSettings(tmp_path, server.url), Transport(attempts=1, connections=1, proxy=lambda url: None))
    info = hub.info(TINY)
    server.files[f"/owner/tiny/resolve/{COMMIT}/config.json"] = FILES["config.json"]
    wanted = select(info.files, ["*"])
    answers = [lambda handler: handler.send(200, FILES["config.json"]), cut(3000)]
    server.script = list(answers)
    with pytest.raises(
        HubError, match=r"owner/tiny: the download broke off: .* of model.safetensors are kept"
    ):
        hub.fetch(info, wanted)
    assert downloads(server) == ["config.json", "model.safetensors"]
    server.requests.clear()
    folder = hub.fetch(info, wanted)
    assert server.ranges() == ["bytes=3000-"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_equal_files_are_fetched_once(server: Server, tmp_path: Path) -> None:
    publish(server, "owner/tiny", {"a.json": b"{}", "b.json": b"{}"})
    folder = fetch(hub_of(server, tmp_path))
    assert (folder / "a.json").read_bytes() == (folder / "b.json").read_bytes() == b"{}"
    assert len(downloads(server)) == 1


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_is_not_what_the_hub_says_is_refused(server: Server, tmp_path: Path, name: str) -> None:
    server.files[f"/owner/tiny/resolve/{COMMIT}/{name}"] = bytes(len(FILES[name]))
    with pytest.raises(HubError, match=f"owner/tiny: {name}: arrived damaged"):
        fetch(hub_of(server, tmp_path))
    assert not (tmp_path / "models--owner--tiny" / "snapshots").exists()


def test_without_links_the_files_themselves_lie_in_the_snapshot(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: object) -> None:
        raise PermissionError(1, "Operation not permitted")  # FAT

    monkeypatch.setattr(Path, "symlink_to", refuse)
    folder = fetch(hub_of(server, tmp_path))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not (folder / "model.safetensors").is_symlink()


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(server: Server, tmp_path: Path) -> None:
    with serving() as elsewhere:
        elsewhere.files["/blob"] = WEIGHTS
        hub = hub_of(server, tmp_path, token="hf_secret")
        info = hub.info(TINY)
        server.script = [status(302, Location=f"{elsewhere.url}/blob")]
        hub.fetch(info, select(info.files, ["*.safetensors"]))
        assert {headers.get("authorization") for _, headers in server.requests} == {"Bearer hf_secret"}
        ((_, headers),) = elsewhere.requests
        assert "authorization" not in headers


def test_a_token_is_not_sent_in_the_clear_and_never_shown() -> None:
    settings = HubSettings(Path("cache"), "http://mirror.example", token="hf_secret")
    assert settings.headers == {}
    assert "hf_secret" not in repr(settings)
    assert "HF_TOKEN is not sent" in Hub(settings).gated(TINY)
    assert HubSettings(Path("cache"), "https://mirror.example", token="x").headers


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (status(401, X_Error_Code="RepoNotFound"), r"has no model 'owner/tiny', or it is private.*HF_TOKEN"),
        (status(404, X_Error_Code="RepoNotFound"), r"has no model 'owner/tiny', or it is private.*HF_TOKEN"),
        (status(403, X_Error_Code="GatedRepo"), r"is gated.*Open http://.*/owner/tiny.*accept.*HF_TOKEN"),
        (status(404, X_Error_Code="RevisionNotFound"), r"owner/tiny has no revision 'main'"),
        (status(401), r"does not accept the token"),
        (status(200, b"<html>"), r"is not understood.*is it a hub\? HF_ENDPOINT"),
        (status(200, b'{"sha": "x", "siblings": []}'), r"names the commit 'x'"),
        (status(200, b'{"sha": "x", "siblings": [{"rfilename": "a"}]}'), r"is not understood .*size"),
    ],
)
def test_a_refusal_says_what_to_do(server: Server, tmp_path: Path, answer: object, message: str) -> None:
    server.script = [answer]  # type: ignore[list-item]
    with pytest.raises(HubError, match=f"(?s){message}"):
        hub_of(server, tmp_path, token="hf_old").info(TINY)


@pytest.mark.parametrize("name", ["../../../evil", "/etc/passwd", "a\\b"])
def test_a_hub_cannot_name_a_file_outside_of_the_cache(server: Server, tmp_path: Path, name: str) -> None:
    publish(server, "owner/tiny", {name: b"x"})
    with pytest.raises(HubError, match="is not understood"):
        hub_of(server, tmp_path).info(TINY)


def test_a_hub_out_of_reach_is_told_from_one_that_refuses(server: Server, tmp_path: Path) -> None:
    server.script = [status(500)] * 9
    with pytest.raises(HubUnreachableError, match="cannot be reached"):
        hub_of(server, tmp_path).info(TINY)
    with pytest.raises(HubUnreachableError, match="HF_HUB_OFFLINE is set"):
        hub_of(server, tmp_path, offline=True).info(TINY)


def test_the_hubs_own_variables_are_honoured(tmp_path: Path, home: Path) -> None:
    def read(**environment: str) -> HubSettings:
        return HubSettings.from_environment(environment)

    assert read().cache_dir == home / ".cache" / "huggingface" / "hub"
    assert read(XDG_CACHE_HOME="/x").cache_dir == Path("/x/huggingface/hub")
    assert read(HF_HOME="/h").cache_dir == Path("/h/hub")
    assert read(HF_HOME="/h", HF_HUB_CACHE="/c").cache_dir == Path("/c")
    assert read(HF_ENDPOINT="https://mirror.example/").endpoint == "https://mirror.example"
    assert read().endpoint == "https://huggingface.co"
    assert read(HF_HUB_OFFLINE="1").offline
    assert not read(HF_HUB_OFFLINE="0").offline
    assert read(HF_TOKEN="a\n").token == "a"
    (tmp_path / "token").write_text("from-login\n")
    assert read(HF_HOME=str(tmp_path)).token == "from-login"
    assert read(HF_HOME=str(tmp_path), HF_TOKEN="b").token == "b"
    assert read(HF_HOME=str(tmp_path), HF_HUB_DISABLE_IMPLICIT_TOKEN="1").token is None
    assert read(HF_TOKEN_PATH=str(tmp_path / "token")).token == "from-login"


def test_a_ref_that_leads_out_of_the_cache_is_not_followed(tmp_path: Path) -> None:
    refs = tmp_path / "models--owner--tiny" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("../../..")
    hub = Hub(HubSettings(tmp_path), QUICK)
    assert hub.cached(TINY) is None
    assert json.dumps(hub.cached(HubId("owner/none", "main"))) == "null"
