"""Downloads: whole or not at all, whatever the server does and whenever the process dies."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from misbehaving import (
    Action,
    Handler,
    Server,
    answer,
    chunked,
    claim,
    cut,
    ignore_range,
    part,
    serving,
    stall,
    status,
    without_length,
)

from model_zoo.download import Wanted, download
from model_zoo.errors import DownloadError, StoreError
from model_zoo.http import Transport, environment_proxy
from model_zoo.partial import NOTE_SUFFIX, PARTIAL_SUFFIX

BODY = random.Random(1).randbytes(3000)
OTHER = random.Random(2).randbytes(3000)
SHA256 = hashlib.sha256(BODY).hexdigest()


async def at_once(seconds: float) -> None:
    pass


QUICK = Transport(attempts=4, sleep=at_once, connect_s=5, stall_s=5, proxy=lambda url: None)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as state:
        state.files["/model"] = BODY
        yield state


def fetch(server: Server, folder: Path, transport: Transport = QUICK, **what: object) -> Path:
    target = folder / "model"
    known: dict[str, object] = {"size": len(BODY), "sha256": SHA256}
    download([Wanted(f"{server.url}/model", target, **{**known, **what})], transport=transport)  # type: ignore[arg-type]
    return target


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def broken_off(server: Server, folder: Path, count: int, body: bytes = BODY) -> None:
    """Leave a partial file of `count` bytes with its note, as a process that was killed does."""
    server.script = [cut(count), *[status(503)] * 10]
    server.files["/model"], kept = body, server.files["/model"]
    with pytest.raises(DownloadError, match="broke off"):
        fetch(server, folder, size=None, sha256=None)
    server.files["/model"] = kept
    server.script.clear()
    server.requests.clear()
    assert (folder / f"model{PARTIAL_SUFFIX}").stat().st_size == count


# --- the honest server --------------------------------------------------------------------------------------


def test_a_file_arrives_whole_under_its_name_and_nothing_is_left_beside_it(
    server: Server, tmp_path: Path
) -> None:
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert left(tmp_path) == ["model"]


def test_what_is_there_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    fetch(server, tmp_path)
    assert len(server.requests) == 1


def test_the_plain_bytes_are_asked_for_and_who_asks_is_said(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path, headers={"Authorization": "Bearer x"})
    ((_, headers),) = server.requests
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"].startswith("edge-runtime/")
    assert headers["authorization"] == "Bearer x"


def test_several_files_come_at_once_and_no_more_than_allowed(server: Server, tmp_path: Path) -> None:
    now, most = 0, 0
    lock = threading.Lock()

    def slowly(handler: Handler) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1
        answer(handler, None)

    names = [f"/{place}" for place in range(7)]
    server.files = {name: name.encode() * 100 for name in names}
    server.script = [slowly] * 7
    seen: dict[str, tuple[int, int | None]] = {}
    download(
        [Wanted(server.url + name, tmp_path / name[1:]) for name in names],
        transport=Transport(connections=3, proxy=lambda url: None),
        progress=lambda name, done, total: seen.__setitem__(name, (done, total)),
    )
    assert 2 <= most <= 3
    assert {name: (tmp_path / name).read_bytes() for name in left(tmp_path)} == {
        name[1:]: body for name, body in server.files.items()
    }
    assert seen == {name[1:]: (200, 200) for name in names}


def test_an_empty_file_arrives(server: Server, tmp_path: Path) -> None:
    server.files["/model"] = b""
    assert fetch(server, tmp_path, size=0, sha256=hashlib.sha256(b"").hexdigest()).read_bytes() == b""


def test_the_hash_that_git_gives_a_file_is_checked(server: Server, tmp_path: Path) -> None:
    server.files["/model"] = b"hello\n"  # git hash-object, from git's own documentation of the format
    right = "ce013625030ba8dba906f756967f9e9ca394464a"
    fetch(server, tmp_path / "right", size=6, sha256=None, git_sha1=right)
    with pytest.raises(DownloadError, match=f"arrived damaged .*git hash {right}, expected 0000"):
        fetch(server, tmp_path / "wrong", size=6, sha256=None, git_sha1="0" * 40)


# --- resuming -----------------------------------------------------------------------------------------------


@given(place=st.integers(0, len(BODY)))
@settings(max_examples=25, deadline=None)
def test_cut_at_any_byte_it_goes_on_there(place: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name, serving() as server:
        server.files["/model"] = BODY
        server.script = [cut(place)]
        assert fetch(server, Path(name)).read_bytes() == BODY
        later = [f"bytes={place}-"] if 0 < place < len(BODY) else [None]
        assert server.ranges()[1:] == ([] if place == len(BODY) else later)


def test_a_later_call_goes_on_with_the_etag_that_was_there(server: Server, tmp_path: Path) -> None:
    broken_off(server, tmp_path, 1234)
    assert fetch(server, tmp_path).read_bytes() == BODY
    ((_, headers),) = server.requests
    assert headers["range"] == "bytes=1234-"
    assert headers["if-range"] == f'"{SHA256}"'
    assert left(tmp_path) == ["model"]


def test_many_cuts_are_no_failure_as_long_as_something_new_comes(server: Server, tmp_path: Path) -> None:
    server.script = [cut(100)] * 20
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert len(server.requests) == 21


def test_a_server_that_brings_nothing_new_is_given_up_and_what_came_is_kept(
    server: Server, tmp_path: Path
) -> None:
    server.script = [cut(100), *[cut(0)] * 10]
    with pytest.raises(
        DownloadError, match=r"broke off: .*100 B of model are kept: run the same command again"
    ):
        fetch(server, tmp_path)
    assert len(server.requests) == QUICK.attempts
    assert left(tmp_path) == [f"model{PARTIAL_SUFFIX}", f"model{NOTE_SUFFIX}"]


@pytest.mark.parametrize("etag", ['W/"weak"', None, "not quoted"])
def test_without_a_strong_validator_it_begins_anew(server: Server, tmp_path: Path, etag: str | None) -> None:
    server.etag = lambda body: etag
    server.script = [cut(1000)]
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert server.ranges() == [None, None]


@pytest.mark.parametrize(("modified", "resumes"), [("Sun, 01 Nov 2020 10:00:00 GMT", True), (None, False)])
def test_a_last_modified_counts_when_it_is_old_enough(
    server: Server, tmp_path: Path, modified: str | None, resumes: bool
) -> None:
    from email.utils import formatdate

    server.etag = lambda body: None
    server.last_modified = modified or formatdate(usegmt=True)
    server.script = [cut(1000)]
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert server.ranges() == [None, "bytes=1000-" if resumes else None]


def test_a_partial_without_its_note_begins_anew_even_when_its_size_is_right(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / f"model{PARTIAL_SUFFIX}").write_bytes(OTHER)
    assert fetch(server, tmp_path, sha256=None).read_bytes() == BODY


def test_a_note_of_another_address_does_not_count(server: Server, tmp_path: Path) -> None:
    broken_off(server, tmp_path, 500)
    server.files["/elsewhere"] = BODY
    download([Wanted(f"{server.url}/elsewhere", tmp_path / "model")], transport=QUICK)
    assert server.ranges() == [None]


def test_a_spoilt_partial_is_noticed_by_the_hash_and_fetched_once_more(
    server: Server, tmp_path: Path
) -> None:
    broken_off(server, tmp_path, 1500)
    with (tmp_path / f"model{PARTIAL_SUFFIX}").open("r+b") as file:
        file.write(b"\0" * 512)  # as after a power cut
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert server.ranges() == ["bytes=1500-", None]


# --- servers that misbehave ---------------------------------------------------------------------------------


def test_a_server_that_ignores_ranges_gets_a_truncated_file_to_write_to(
    server: Server, tmp_path: Path
) -> None:
    broken_off(server, tmp_path, 2000)
    server.script = [ignore_range]
    assert fetch(server, tmp_path).read_bytes() == BODY


def test_a_file_that_changed_meanwhile_is_fetched_whole(server: Server, tmp_path: Path) -> None:
    broken_off(server, tmp_path, 2000, body=OTHER)
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert server.ranges() == ["bytes=2000-"]  # If-Range made the server send the whole file at once


@pytest.mark.parametrize(
    "wrong",
    [
        part("bytes 0-2999/3000", 0),
        part("bytes 999-2999/3000", 999),
        part("bytes 1001-2999/3000", 1001),
        part("bytes 1000-2999/4000", 1000),
        part("bytes 1000-2999/*", 1000),
        part("bytes 1000-999/3000", 1000),
        part("bytes */3000", 1000),
        part("", 1000),
        part("bytes 1000-2999/3000", 1000, ETag='"another"'),
        status(416, Content_Range="bytes */3000"),
        status(416),
    ],
)
def test_a_part_that_does_not_fit_to_the_byte_is_never_appended(
    server: Server, tmp_path: Path, wrong: object
) -> None:
    broken_off(server, tmp_path, 1000)
    server.script = [wrong]  # type: ignore[list-item]
    # No hash and no size: what protects the file is the check of the answer alone.
    assert fetch(server, tmp_path, size=None, sha256=None).read_bytes() == BODY
    assert server.ranges() == ["bytes=1000-", None]


def test_a_server_may_send_less_than_was_asked_for(server: Server, tmp_path: Path) -> None:
    broken_off(server, tmp_path, 1000)
    server.script = [part("bytes 1000-1499/3000", 1000, 1500)]
    assert fetch(server, tmp_path, size=None, sha256=None).read_bytes() == BODY
    assert server.ranges() == ["bytes=1000-", "bytes=1500-"]


def test_a_part_nobody_asked_for_is_refused(server: Server, tmp_path: Path) -> None:
    server.script = [part("bytes 0-2999/3000", 0)]
    with pytest.raises(DownloadError, match=r"sends a part .* not asked for"):
        fetch(server, tmp_path)


def test_all_bytes_there_and_only_the_rename_missing_is_finished_by_416(
    server: Server, tmp_path: Path
) -> None:
    broken_off(server, tmp_path, 2999)
    server.script = [cut(1), *[status(503)] * 3]
    with pytest.raises(DownloadError):
        fetch(server, tmp_path, size=None, sha256="0" * 64)  # damaged on purpose: keeps nothing
    (tmp_path / f"model{PARTIAL_SUFFIX}").write_bytes(BODY)
    server.script.clear()
    assert fetch(server, tmp_path).read_bytes() == BODY


ANYTHING = st.sampled_from(
    [
        *(cut(count) for count in (0, 1, 999, 2999, 3000)),
        ignore_range,
        chunked,
        without_length,
        *(part(f"bytes {start}-2999/3000", start) for start in (0, 1, 999, 2998)),
        part("bytes 1-1999/2000", 1, 2000),
        part("", 10),
        part("bytes 999-1500/3000", 999, 1501),
        *(status(code) for code in (204, 206, 304, 404, 416, 429, 500, 503)),
        status(416, Content_Range="bytes */3000"),
        status(200, b"<html>log in to this network</html>"),
        status(302, Location="/model"),
        *(claim(length) for length in (0, 1, 2500, 3500)),
        claim(3000, Content_Encoding="gzip"),
    ]
)


@given(script=st.lists(ANYTHING, max_size=8), known=st.sampled_from(["both", "size", "sha256"]))
@settings(max_examples=40, deadline=None)
def test_whatever_a_server_does_there_is_the_right_file_or_none(script: list[Action], known: str) -> None:
    import tempfile

    what = {"both": {}, "size": {"sha256": None}, "sha256": {"size": None}}[known]
    with tempfile.TemporaryDirectory() as name, serving() as server:
        server.files["/model"] = BODY
        server.script = list(script)
        for _ in range(len(script) + 1):
            try:
                fetch(server, Path(name), **what)
            except DownloadError:
                assert not (Path(name) / "model").exists()
            else:
                break
        server.script.clear()
        assert fetch(server, Path(name), **what).read_bytes() == BODY
        assert left(Path(name)) == ["model"]


def test_wrong_bytes_are_removed_and_said_with_both_hashes(server: Server, tmp_path: Path) -> None:
    server.files["/model"] = OTHER
    with pytest.raises(DownloadError, match=f"model: arrived damaged .*SHA-256 .* expected {SHA256}"):
        fetch(server, tmp_path)
    assert left(tmp_path) == []
    assert len(server.requests) == 1


@pytest.mark.parametrize("size", [2999, 3001])
def test_a_file_of_another_size_is_refused_before_its_bytes(
    server: Server, tmp_path: Path, size: int
) -> None:
    with pytest.raises(DownloadError, match=f"has 3000 bytes, and {size} are expected"):
        fetch(server, tmp_path, size=size)
    assert left(tmp_path) == []


def test_a_content_length_above_the_body_is_a_cut_connection(server: Server, tmp_path: Path) -> None:
    server.script = [claim(3500)] * 10
    with pytest.raises(DownloadError, match="broke off"):
        fetch(server, tmp_path, size=None, sha256=None)


def test_a_content_length_below_the_body_does_not_make_a_file(server: Server, tmp_path: Path) -> None:
    server.script = [claim(2500)] * 20
    with pytest.raises(DownloadError, match=r"has 2500 bytes, and 3000 are expected|broke off"):
        fetch(server, tmp_path)
    with pytest.raises(DownloadError, match=r"arrived damaged|broke off"):
        fetch(server, tmp_path, size=None)
    assert "model" not in left(tmp_path)


def test_a_body_without_a_length_needs_a_size_or_its_own_end(server: Server, tmp_path: Path) -> None:
    server.script = [chunked]
    assert fetch(server, tmp_path / "a", size=None).read_bytes() == BODY
    server.script = [without_length]
    with pytest.raises(DownloadError, match="does not say how long the file is"):
        fetch(server, tmp_path / "b", size=None, sha256=None)
    server.script = [chunked]
    with pytest.raises(DownloadError, match="sends more than the 2000 bytes"):
        fetch(server, tmp_path / "c", size=2000)
    assert left(tmp_path / "c") == []


def test_a_server_that_fails_and_recovers_is_waited_for(server: Server, tmp_path: Path) -> None:
    waits: list[float] = []

    async def remember(seconds: float) -> None:
        waits.append(seconds)

    server.script = [status(500), status(503, Retry_After="7"), status(429)]
    patient = Transport(attempts=4, sleep=remember, backoff_s=1, jitter=lambda: 1.0, proxy=lambda url: None)
    assert fetch(server, tmp_path, patient).read_bytes() == BODY
    assert waits == [1.0, 7.0, 4.0]


@pytest.mark.parametrize(("code", "hint"), [(404, "Check the address"), (403, "your right to it")])
def test_a_refusal_is_told_at_once(server: Server, tmp_path: Path, code: int, hint: str) -> None:
    server.script = [status(code)]
    with pytest.raises(DownloadError, match=f"the server says {code}.*{hint}") as caught:
        fetch(server, tmp_path)
    assert caught.value.status == code
    assert len(server.requests) == 1
    assert left(tmp_path) == []


def test_a_stalled_connection_is_given_up_and_resumed(server: Server, tmp_path: Path) -> None:
    server.script = [stall(1000)]
    impatient = Transport(stall_s=0.2, sleep=at_once, proxy=lambda url: None)
    assert fetch(server, tmp_path, impatient).read_bytes() == BODY
    assert server.ranges() == [None, "bytes=1000-"]


def test_compressed_bytes_are_refused(server: Server, tmp_path: Path) -> None:
    server.script = [claim(len(BODY), Content_Encoding="gzip")]
    with pytest.raises(DownloadError, match=r"compressed \(gzip\) though the plain bytes were asked for"):
        fetch(server, tmp_path)
    assert left(tmp_path) == []


def test_nobody_there_is_said_with_the_host(tmp_path: Path) -> None:
    with serving() as gone:
        pass
    with pytest.raises(DownloadError, match=r"broke off: .*127.0.0.1 cannot be reached \(.*refused"):
        fetch(gone, tmp_path)
    assert left(tmp_path) == []


# --- redirects and proxies ----------------------------------------------------------------------------------


def test_a_redirect_to_another_origin_gets_no_authorization(server: Server, tmp_path: Path) -> None:
    with serving() as other:
        other.files["/blob"] = BODY
        server.script = [status(302, Location="/hop"), status(307, Location=f"{other.url}/blob?sig=a%2Fb")]
        fetch(server, tmp_path, headers={"Authorization": "Bearer secret"})
        assert [headers.get("authorization") for _, headers in server.requests] == ["Bearer secret"] * 2
        ((path, headers),) = other.requests
        assert path == "/blob?sig=a%2Fb"
        assert "authorization" not in headers


def test_a_resumed_download_is_redirected_again(server: Server, tmp_path: Path) -> None:
    with serving() as other:
        other.files["/blob"] = BODY
        other.script = [cut(700)]
        server.script = [status(302, Location=f"{other.url}/blob?{place}") for place in range(2)]
        assert fetch(server, tmp_path).read_bytes() == BODY
        assert other.ranges() == [None, "bytes=700-"]


@pytest.mark.parametrize(
    ("location", "message"),
    [("ftp://127.0.0.1/x", "is not followed"), ("", "does not say where to"), ("/model", "more than 10")],
)
def test_a_redirect_that_leads_nowhere_is_refused(
    server: Server, tmp_path: Path, location: str, message: str
) -> None:
    server.script = [status(302, **({"Location": location} if location else {}))] * 20
    with pytest.raises(DownloadError, match=message):
        fetch(server, tmp_path)


def test_a_redirect_from_https_to_http_is_refused() -> None:
    from types import SimpleNamespace

    from yarl import URL

    from model_zoo.http import _redirected

    answered = SimpleNamespace(headers={"Location": "http://example.org/x"}, status=302)
    with pytest.raises(DownloadError, match="from https to http"):
        _redirected(URL("https://example.org/x"), answered)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["ftp://host/x", "file:///etc/passwd", "https://", "http://[::1", "model"])
def test_what_is_no_web_address_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="is no address"):
        download([Wanted(url, tmp_path / "x")], transport=QUICK)


def test_the_environments_proxy_is_used(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "localhost")
    server.files["http://models.invalid/model"] = BODY  # a proxy is asked for the whole address
    target = tmp_path / "model"
    download([Wanted("http://models.invalid/model", target, sha256=SHA256)], transport=Transport(attempts=1))
    assert target.read_bytes() == BODY
    assert environment_proxy("http://localhost:8080/x") is None
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(DownloadError, match=r"names the proxy socks5://127.0.0.1, of a kind"):
        environment_proxy("https://models.invalid/x")


# --- the disk, other processes, and the end of ours ---------------------------------------------------------


def test_a_full_disk_is_said_with_what_is_free_and_keeps_what_came(server: Server, small_disk: Path) -> None:
    server.files["/model"] = bytes(2 << 20)
    with pytest.raises(StoreError, match=r"No space left.*are free there\. What has arrived is kept"):
        fetch(server, small_disk, size=None, sha256=None)
    assert (small_disk / f"model{PARTIAL_SUFFIX}").stat().st_size > 0


def test_a_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file/model: cannot be written"):
        fetch(server, tmp_path / "file")


def test_one_wrong_file_stops_the_others_and_they_resume(server: Server, tmp_path: Path) -> None:
    server.files["/other"] = OTHER
    server.script = [stall(1000), status(404)]
    wanted = [
        Wanted(f"{server.url}/other", tmp_path / "other"),
        Wanted(f"{server.url}/gone", tmp_path / "gone"),
    ]
    with pytest.raises(DownloadError, match="404"):
        download(wanted, transport=Transport(connections=2, sleep=at_once, proxy=lambda url: None))
    assert not (tmp_path / "other").exists()


CHILD = """
import sys
from model_zoo.download import Wanted, download
url, target, size, sha256 = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
download([Wanted(url, __import__("pathlib").Path(target), int(size), sha256)])
"""


def child(server: Server, target: Path, body: bytes) -> "subprocess.Popen[str]":
    arguments = [f"{server.url}/model", str(target), str(len(body)), hashlib.sha256(body).hexdigest()]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def start(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()


def end(process: "subprocess.Popen[str]") -> int:
    code = process.wait(60)
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()
    return code


def test_killed_at_random_bytes_it_resumes_and_ends_whole(server: Server, tmp_path: Path) -> None:
    dice = random.Random(os.environ.get("EDGE_TEST_SEED", 3))
    body = dice.randbytes(2 << 20)
    server.files["/model"] = body
    target = tmp_path / "model"
    for _ in range(3):
        process = child(server, target, body)

        def kill_on_the_way(handler: Handler, pid: int = process.pid) -> None:
            here = handler.wanted_range() or 0
            count = dice.randrange(1, (len(body) - here) // 2)
            goal, partial = here + dice.randrange(1, count + 1), tmp_path / f"model{PARTIAL_SUFFIX}"
            send = handler.wfile.write

            def write(data: bytes) -> int:
                if len(data) < 4096:
                    return send(data)
                send(data[:count])
                while partial.stat().st_size < goal:  # the rest is on its way, or being written
                    time.sleep(0.002)
                os.kill(pid, signal.SIGKILL)
                handler.hang_up()
                return 0

            handler.wfile.write = write  # type: ignore[method-assign]
            answer(handler, None)

        server.script = [kill_on_the_way]
        start(process)
        assert end(process) == -signal.SIGKILL
        assert not target.exists()
    server.requests.clear()
    process = child(server, target, body)
    start(process)
    assert end(process) == 0
    assert target.read_bytes() == body
    assert server.ranges() != [None]  # it went on, and did not begin anew
    assert left(tmp_path) == ["model"]


DIES_AT_EVERY_STEP = """
import os, pathlib, sys
from model_zoo.download import Wanted, download
url, folder, size, sha256 = sys.argv[1:]
steps = 0
def fatal(name, place):
    real = getattr(os, name)
    def step(*args, **kwargs):
        global steps
        steps += 1
        if steps == place:
            os._exit(9)
        result = real(*args, **kwargs)
        return result
    setattr(os, name, step)
place = 0
while True:
    place += 1
    target = pathlib.Path(folder, str(place), "model")
    pid = os.fork()
    if pid == 0:
        for name in ("open", "ftruncate", "write", "replace", "fsync", "unlink"):
            fatal(name, place)
        download([Wanted(url, target, int(size), sha256)])
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
        break
    if target.exists():
        assert target.stat().st_size == int(size), place
    pid = os.fork()
    if pid == 0:
        download([Wanted(url, target, int(size), sha256)])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, place
    assert target.read_bytes() == pathlib.Path(folder, "body").read_bytes(), place
    assert [path.name for path in target.parent.iterdir()] == ["model"], place
print(place - 1)
"""


def test_dying_before_any_system_call_on_the_disk_leaves_what_the_next_call_mends(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "body").write_bytes(BODY)
    arguments = [f"{server.url}/model", str(tmp_path), str(len(BODY)), SHA256]
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DIES_AT_EVERY_STEP, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) >= 6  # it died at that many places


def test_two_processes_that_want_one_file_both_get_it_and_one_downloads(
    server: Server, tmp_path: Path
) -> None:
    begun = threading.Event()

    def slowly(handler: Handler) -> None:
        begun.set()
        time.sleep(0.3)
        answer(handler, None)

    server.script = [slowly]
    first, second = child(server, tmp_path / "model", BODY), child(server, tmp_path / "model", BODY)
    start(first)
    assert begun.wait(20)
    start(second)
    assert [end(first), end(second)] == [0, 0]
    assert (tmp_path / "model").read_bytes() == BODY
    assert len(server.requests) == 1
    assert left(tmp_path) == ["model"]
