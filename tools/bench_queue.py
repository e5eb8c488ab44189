"""What a job costs the disk: bytes written, syncs and time, with the queue's real code on a recorded disk.

    python -m tools.bench_queue [--jobs 400] [--waiting 20000] [--json]

Needs apsw (in the extra `test`). Bytes and syncs are counted where SQLite asks the operating system for them,
checkpoints included; what a card's own controller makes of them is its own affair. Times depend on the disk
under the temporary folder, which is printed.
"""

from __future__ import annotations

import json
import random
import resource
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import click

from offload.queue import Limits, Queue
from offload.store import Store, from_file
from offload.store.connection import Connect, connect
from offload.types import Answer, Message, Query

REQUEST_BYTES, ANSWER_BYTES = 1500, 2000


def query(source: random.Random) -> Query:
    return Query("q", (Message("user", source.randbytes(REQUEST_BYTES // 2).hex()),))


def answer(source: random.Random) -> Answer:
    return Answer("a", source.randbytes(ANSWER_BYTES // 2).hex(), "cloud")


def counted(folder: Path, jobs: int, burst: int) -> dict[str, Any]:
    """Bytes and syncs per job for put, sent and complete, in bursts of `burst` jobs."""
    from tests.offload.crash_disk import Connection, Disk, Recorded

    recorded = Recorded()
    disk = Disk(f"bench-{burst}", recorded)
    source = random.Random(burst)

    def on_disk(path: Path) -> Connection:
        return Connection(path, f"bench-{burst}")

    store, queue = opened(folder, on_disk, jobs)
    start = len(recorded.entries)
    for _ in range(0, jobs, burst):
        wait(queue.submit(query(source)) for _ in range(burst))
        leases = queue.lease(burst)
        # the drain loop has many jobs under way at once: so do these threads
        together(queue.sent, [(lease,) for lease in leases])
        together(queue.complete, [(lease, answer(source)) for lease in leases])
    store.close()
    entries = recorded.entries[start:]
    written = sum(len(entry[3]) for entry in entries if entry[0] == "write")
    syncs = sum(entry[0] == "sync" for entry in entries)
    del disk
    return {"burst": burst, "jobs": jobs, "kib_per_job": written / 1024 / jobs, "fsync_per_job": syncs / jobs}


def timed(folder: Path, waiting: int, jobs: int) -> dict[str, Any]:
    """Times of single operations while `waiting` jobs wait, of opening, and the memory at the end."""
    source = random.Random(0)
    store, queue = opened(folder, connect, 2 * waiting + jobs)
    begun = time.perf_counter()
    wait(queue.submit(query(source)) for _ in range(waiting))
    filled = time.perf_counter() - begun
    found: dict[str, list[float]] = {"put": [], "lease": [], "complete": []}
    for _ in range(jobs):
        clock(found["put"], lambda: queue.put(query(source)))
        (lease,) = clock(found["lease"], queue.lease)
        clock(found["complete"], lambda lease=lease: queue.complete(lease, answer(source)))
    store.close()
    begun = time.perf_counter()
    store, queue = opened(folder, connect, 2 * waiting + jobs)
    ready = time.perf_counter() - begun
    queue.put(query(source))
    first = time.perf_counter() - begun
    store.close()
    return {
        "waiting": waiting,
        "put_per_s_in_a_burst": waiting / filled if waiting else None,
        "open_ms": 1000 * ready,
        "open_and_first_put_ms": 1000 * first,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        **{
            f"{name}_{level}_ms": 1000 * sorted(times)[int(share * (len(times) - 1))]
            for name, times in found.items()
            for level, share in (("p50", 0.5), ("p99", 0.99))
        },
    }


def opened(folder: Path, how: Connect, rows: int) -> tuple[Store, Queue]:
    store = Store(folder / "store.db", from_file(folder / "key"), connect=how)
    return store, Queue(store, Limits(max_rows=rows + 1, max_bytes=1 << 40))


def wait(futures: Any) -> None:
    for future in list(futures):
        future.result()


def together(function: Any, calls: list[tuple[Any, ...]]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(calls)) as pool:
        running: list[Future[Any]] = [pool.submit(function, *call) for call in calls]
        for future in running:
            future.result()


def clock(times: list[float], function: Any) -> Any:
    begun = time.perf_counter()
    result = function()
    times.append(time.perf_counter() - begun)
    return result


@click.command()
@click.option("--jobs", default=400, show_default=True, help="Jobs of each count.")
@click.option("--waiting", default=20_000, show_default=True, help="Jobs that wait while times are taken.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(jobs: int, waiting: int, as_json: bool) -> None:
    """What a job costs the disk and how long operations take."""
    result: dict[str, Any] = {"folder": tempfile.gettempdir(), "disk": [], "time": []}
    for burst in (1, 4, 8, 16):
        with tempfile.TemporaryDirectory() as folder:
            result["disk"].append(counted(Path(folder), jobs // burst * burst, burst))
    for count in (0, waiting):
        with tempfile.TemporaryDirectory() as folder:
            result["time"].append(timed(Path(folder), count, min(jobs, 100)))
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(f"{REQUEST_BYTES} B asked, {ANSWER_BYTES} B answered; files in {result['folder']}")
    for row in result["disk"]:
        click.echo(
            f"bursts of {row['burst']:3}: {row['kib_per_job']:5.1f} KiB and "
            f"{row['fsync_per_job']:.2f} fsync per job"
        )
    for row in result["time"]:
        click.echo(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
