"""The machine: what it is, what else runs on it, and how fast it reads memory."""

from __future__ import annotations

import os
import platform
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["busy_cpu", "describe", "read_bandwidth"]


def busy_cpu(stat: Path = Path("/proc/stat")) -> float | None:
    """CPU seconds that all processes together have used since boot, stolen time included (proc(5)).

    `None` where the operating system does not say.
    """
    try:
        first = stat.read_text().splitlines()[0].split()
    except (OSError, IndexError):
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(v) for v in first[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def describe(cpuinfo: Path = Path("/proc/cpuinfo"), meminfo: Path = Path("/proc/meminfo")) -> dict[str, Any]:
    """CPU model, instruction sets that matter to inference, cores, memory in bytes, operating system."""
    out: dict[str, Any] = {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    if cpuinfo.exists():
        fields = [line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line]
        named = {key.strip(): value.strip() for key, value in fields}
        out["cpu"] = named.get("model name") or named.get("Model") or named.get("CPU part", "unknown")
        flags = set((named.get("flags") or named.get("Features") or "").split())
        wanted = (
            "avx2",
            "avx_vnni",
            "avx512f",
            "avx512_vnni",
            "avx512_bf16",
            "amx_int8",
            "asimddp",
            "i8mm",
            "sve",
        )
        out["instruction_sets"] = [name for name in wanted if name in flags]
    if meminfo.exists():
        out["memory_bytes"] = int(meminfo.read_text().split("MemTotal:", 1)[1].split()[0]) * 1024
    return out


def read_bandwidth(threads: int, *, mib: int = 256, repeats: int = 9) -> float:
    """Bytes per second that `threads` threads read together from memory: the median of `repeats` passes.

    Each thread sums its own array of float32, far larger than any cache; numpy releases the interpreter's
    lock meanwhile. `np.max` keeps up with memory where `np.sum` (pairwise) may not, so the faster of the
    two counts.
    """
    arrays = [np.ones(mib * 2**20 // 4 // threads, np.float32) for _ in range(threads)]
    best = 0.0
    for reduce in (np.max, np.sum):
        rates = []
        for _ in range(repeats):
            barrier = threading.Barrier(threads + 1)

            def work(array: Any, barrier: threading.Barrier = barrier, reduce: Any = reduce) -> None:
                barrier.wait()
                reduce(array)

            workers = [threading.Thread(target=work, args=(a,)) for a in arrays]
            for w in workers:
                w.start()
            barrier.wait()
            start = time.perf_counter()
            for w in workers:
                w.join()
            rates.append(sum(a.nbytes for a in arrays) / (time.perf_counter() - start))
        best = max(best, statistics.median(rates))
    return best
