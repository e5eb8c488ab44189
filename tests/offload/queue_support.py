"""What tests of the store and the queue share: clocks that a test moves, fixed keys, short queries."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from offload.store import Keyring, Store, Times
from offload.types import Answer, Message, Query

KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))
START = Times(wall=1_800_000_000.0, boottime=100.0, boot_id="boot-1")


class Clocks:
    """The clocks of a machine, moved by hand."""

    def __init__(self, times: Times = START) -> None:
        self.times = times

    def __call__(self) -> Times:
        return self.times

    def pass_s(self, seconds: float) -> None:
        self.times = replace(
            self.times, wall=self.times.wall + seconds, boottime=self.times.boottime + seconds
        )

    def set_wall(self, wall: float) -> None:
        self.times = replace(self.times, wall=wall)

    def reboot(self, boot_id: str, wall: float) -> None:
        self.times = Times(wall, 3.0, boot_id)


def keys(*secrets: bytes) -> Callable[[], Keyring]:
    return lambda: Keyring(secrets or (KEY,))


def key_line(key: bytes) -> str:
    return f"edge-store-key {base64.b64encode(key).decode()}\n"


def open_store(folder: Path, clocks: Clocks | None = None, *secrets: bytes, **options: Any) -> Store:
    return Store(
        folder / "store.db", keys(*secrets), times=clocks or Clocks(), **{"window_s": 0.0, **options}
    )


def query(text: str = "hello", **fields: Any) -> Query:
    return Query(id="q", messages=(Message("user", text),), **fields)


def reply(text: str = "there") -> Answer:
    return Answer(id="a", text=text, source="cloud")
