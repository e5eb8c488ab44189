"""The device that this program runs on: board, processor, memory and disk, as Linux tells them.

Everything is read below an injectable root, so that a test can hold the `/proc` and `/sys` of a board that is
not at hand. What cannot be told is `None`, never a guess.

Knows: the files of the kernel (proc(5), the device tree, sysfs, control groups of both versions). Does not
know: models, or what is done with the figures.
"""

from __future__ import annotations

import platform
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edge_runtime.engines.tuning import Machine
from model_zoo.boards import BOARDS, Board

__all__ = ["DeviceProfile", "free_disk", "probe"]

FEATURES = (
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
    *(
        "sse4_2",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "avx_vnni",
        "avx512f",
        "avx512_vnni",
        "avx512_bf16",
        "amx_int8",
    ),
)
"""The instruction sets that change the speed of a quantized model, under the kernel's names for them."""

# CPU part numbers of Arm Ltd. (implementer 0x41), from the MIDR_EL1 entries of each core's reference manual.
_ARM_CORES = {
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1",
    0xD40: "Neoverse-V1",
    0xD41: "Cortex-A78",
    0xD42: "Cortex-A78AE",
    0xD44: "Cortex-X1",
    0xD46: "Cortex-A510",
    0xD47: "Cortex-A710",
    0xD49: "Neoverse-N2",
    0xD4F: "Neoverse-V2",
}

# The `compatible` strings of the device trees in the Raspberry Pi and the L4T kernels.
_BOARDS = (
    (re.compile(r"raspberrypi,model-zero-2"), "pi-zero-2"),
    (re.compile(r"raspberrypi,3-"), "pi3"),
    (re.compile(r"raspberrypi,(4-|400\b)"), "pi4"),
    (re.compile(r"raspberrypi,(5-|500\b)"), "pi5"),
    (re.compile(r"nvidia,.*p3767-000[345]"), "orin-nano"),
    (re.compile(r"nvidia,.*p3767-000[012]"), "orin-nx"),
    (re.compile(r"nvidia,.*p3701-"), "agx-orin"),
)

_AT_PAGESZ = 6
"""Key of the page size in the auxiliary vector (getauxval(3))."""

_MOST_CPUS = 8192
"""The most that Linux is built for; a range of a damaged file does not become a large set."""

_NO_LIMIT = 1 << 60
"""Control groups of version 1 write "no limit" as a number near the largest there is."""


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """What a device is and has right now. Sizes in bytes.

    `model`: what the system calls itself ("Raspberry Pi 5 Model B Rev 1.0"); `board`: its name in
    `model_zoo.boards`. `machine`: architecture of the kernel, `bits`: of this program. `cores`: physical
    cores (the fast ones), `logical`: hardware threads, both as far as this process may use them;
    `cpu_quota`: CPUs' worth of time its control group gives it. `memory_available`: what can still be had
    without swapping, the least of the system's and of every control group's around this process.
    `memory_limit`: the tightest limit of those groups. `disk_free`: at `disk_path`.
    """

    model: str | None
    board: str | None
    machine: str
    bits: int
    cpu: str | None
    cores: int
    logical: int
    cpu_quota: float | None
    features: tuple[str, ...]
    page_size: int | None
    memory_total: int | None
    memory_available: int | None
    memory_limit: int | None
    swap_total: int | None
    disk_path: str
    disk_free: int | None

    @property
    def kind(self) -> Board | None:
        """The board, when it is one of those that are known."""
        return None if self.board is None else BOARDS[self.board]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "features": list(self.features)}


def probe(
    root: Path = Path("/"),
    *,
    disk: Path | None = None,
    machine: str | None = None,
    bits: int = struct.calcsize("P") * 8,
    disk_free: Callable[[Path], int | None] | None = None,
) -> DeviceProfile:
    """Look at this device.

    Args:
        root: where `proc` and `sys` are.
        disk: the folder whose free space is told; by default the one this program runs in.
        machine: architecture of the kernel, by default as uname(2) has it.
        bits: width of this program's pointers. A 32-bit program on a 64-bit kernel is 32.
        disk_free: free bytes at a folder (`None`: cannot be told); by default statvfs(3).
    """
    place = disk or Path.cwd()
    memory = _meminfo(root)
    groups = list(_groups(root))
    available = [
        value for value in (memory.get("MemAvailable"), *(free for _, free in groups)) if value is not None
    ]
    usable = Machine.probe(root / "sys", _allowed(root))
    compatible = _strings(root, "compatible")
    cpuinfo = _cpuinfo(root)
    return DeviceProfile(
        model=_model(root),
        board=next((name for text in compatible for rule, name in _BOARDS if rule.match(text)), None),
        machine=machine or platform.machine(),
        bits=bits,
        cpu=_cpu_name(cpuinfo),
        cores=usable.cores,
        logical=usable.logical,
        cpu_quota=usable.quota,
        features=_features(cpuinfo),
        page_size=_page_size(root, bits),
        memory_total=memory.get("MemTotal"),
        memory_available=max(0, min(available)) if available else None,
        memory_limit=min((limit for limit, _ in groups), default=None),
        swap_total=memory.get("SwapTotal"),
        disk_path=str(place),
        disk_free=(disk_free or free_disk)(place),
    )


def free_disk(folder: Path) -> int | None:
    """Bytes that this user can still write at a folder, or at the nearest one above it that exists."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return None


# --- the board ----------------------------------------------------------------------------------------------


def _strings(root: Path, name: str) -> list[str]:
    """A property of the device tree's root: strings that end with NUL each."""
    for folder in ("proc/device-tree", "sys/firmware/devicetree/base"):
        raw = _bytes(root / folder / name)
        if raw:
            return [part.decode("utf-8", "replace") for part in raw.split(b"\0") if part]
    return []


def _model(root: Path) -> str | None:
    """From the device tree, else from the tables of the firmware (SMBIOS)."""
    if tree := _strings(root, "model"):
        return tree[0].strip()
    names = [_text(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name")]
    return " ".join(name for name in names if name) or None


# --- the processor ------------------------------------------------------------------------------------------


def _cpuinfo(root: Path) -> dict[str, str]:
    """The fields of the last processor in /proc/cpuinfo (most boards with two kinds of cores list the fast
    ones last)."""
    found: dict[str, str] = {}
    for line in (_text(root / "proc/cpuinfo") or "").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found[name.strip()] = value.strip()
    return found


def _cpu_name(cpuinfo: dict[str, str]) -> str | None:
    if "model name" in cpuinfo and "CPU part" not in cpuinfo:
        return cpuinfo["model name"]
    try:
        implementer, part = int(cpuinfo["CPU implementer"], 16), int(cpuinfo["CPU part"], 16)
    except (KeyError, ValueError):
        return None
    return _ARM_CORES.get(part) if implementer == 0x41 else None


def _features(cpuinfo: dict[str, str]) -> tuple[str, ...]:
    present = set((cpuinfo.get("Features") or cpuinfo.get("flags") or "").split())
    return tuple(name for name in FEATURES if name in present)


def _allowed(root: Path) -> set[int] | None:
    """Processors that are online and that this process may run on; `None` where the root does not tell."""
    status = _text(root / "proc/self/status") or ""
    listed = re.search(r"^Cpus_allowed_list:\s*(\S+)", status, re.MULTILINE)
    online = _ranges(_text(root / "sys/devices/system/cpu/online") or "")
    mine = _ranges(listed.group(1)) if listed else online
    return (mine & online if online else mine) or None


def _ranges(text: str) -> set[int]:
    """`0-2,5` → 0, 1, 2, 5."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            end = min(int(last if last.isdigit() else first), _MOST_CPUS)
            found |= set(range(int(first), end + 1))
    return found


def _page_size(root: Path, bits: int) -> int | None:
    """From the auxiliary vector of this process: pairs of native words."""
    raw = _bytes(root / "proc/self/auxv")
    width = "I" if bits == 32 else "Q"
    size = struct.calcsize(f"={width}{width}")
    for key, value in struct.iter_unpack(f"={width}{width}", raw[: len(raw) // size * size]):
        if key == _AT_PAGESZ:
            return int(value)
    return None


# --- memory -------------------------------------------------------------------------------------------------


def _meminfo(root: Path) -> dict[str, int]:
    """/proc/meminfo in bytes (the kernel's "kB" are KiB)."""
    found: dict[str, int] = {}
    for line in (_text(root / "proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        number = rest.split()
        if number and number[0].isdigit():
            found[name] = int(number[0]) * (1024 if number[1:] == ["kB"] else 1)
    if "MemTotal" in found and "MemAvailable" not in found:  # kernels before 3.14
        found["MemAvailable"] = sum(found.get(name, 0) for name in ("MemFree", "Buffers", "Cached"))
    return found


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, what is left of it) of every control group with a memory limit around this process.

    Pages of files that were read (`inactive_file`) count as used by the kernel's books, and as left here:
    they are given up when somebody needs the room, just as in MemAvailable.
    """
    mount = root / "sys/fs/cgroup"
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            base, limit_name, used_name = mount, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit_name, used_name = mount / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        # In a container the path may be that of the host, of which only the end of the way up is there.
        for part in (PurePosixPath(path), *PurePosixPath(path).parents):
            group = base / str(part).lstrip("/")
            limit, used = _number(group / limit_name), _number(group / used_name)
            if limit is None or limit >= _NO_LIMIT:
                continue
            stat = _text(group / "memory.stat") or ""
            # Version 1 counts the groups below in `usage`, and what they could give up under `total_`.
            cached = re.search(r"^total_inactive_file (\d+)", stat, re.MULTILINE) or re.search(
                r"^inactive_file (\d+)", stat, re.MULTILINE
            )
            yield limit, limit - (used or 0) + (int(cached.group(1)) if cached else 0)


# --- files --------------------------------------------------------------------------------------------------


def _bytes(path: Path) -> bytes:
    """The content of a file; empty when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _text(path: Path) -> str | None:
    return _bytes(path).decode("utf-8", "replace").strip("\0\n ") or None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text is not None and text.isdigit() else None
