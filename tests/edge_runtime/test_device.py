"""The device profile, over the `/proc` and `/sys` that boards have."""

from __future__ import annotations

import json
import platform
import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.device import DeviceProfile, free_disk, probe
from model_zoo.boards import BOARDS

V8 = "fp asimd evtstrm crc32 cpuid"
V82 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"


@dataclass
class Fake:
    """The files of a machine; `cpuinfo` is repeated for each processor."""

    model: str | None = None
    compatible: tuple[str, ...] = ()
    cpuinfo: str = ""
    cpus: int = 4
    memory_kib: int = 0
    available_kib: int = 0
    page_size: int = 4096
    extra: dict[str, str] = field(default_factory=dict)

    def write(self, root: Path) -> Path:
        files: dict[str, str | bytes] = {
            "proc/cpuinfo": "\n".join(f"processor\t: {i}\n{self.cpuinfo}\n" for i in range(self.cpus)),
            "proc/meminfo": (
                f"MemTotal:       {self.memory_kib} kB\nMemFree:          100 kB\n"
                f"MemAvailable:   {self.available_kib} kB\nSwapTotal:         99996 kB\n"
                "HugePages_Total:       0\n"
            ),
            "proc/self/status": f"Name:\tpython3\nCpus_allowed_list:\t0-{self.cpus - 1}\n",
            "proc/self/auxv": struct.pack("=QQQQQQ", 16, 0xFF, 6, self.page_size, 0, 0),
            "proc/self/cgroup": "0::/user.slice\n",
            "sys/devices/system/cpu/online": f"0-{self.cpus - 1}\n",
            **self.extra,
        }
        if self.model is not None:
            files["proc/device-tree/model"] = self.model.encode() + b"\0"
            files["proc/device-tree/compatible"] = b"".join(text.encode() + b"\0" for text in self.compatible)
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return root


def arm(features: str, part: int) -> str:
    return (
        f"BogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        f"CPU variant\t: 0x0\nCPU part\t: {part:#05x}\nCPU revision\t: 3\n"
    )


PI_ZERO_2 = Fake(
    "Raspberry Pi Zero 2 W Rev 1.0",
    ("raspberrypi,model-zero-2-w", "brcm,bcm2837"),
    arm(V8, 0xD03),
    memory_kib=436 * 1024,
    available_kib=312 * 1024,
)
PI_4 = Fake(
    "Raspberry Pi 4 Model B Rev 1.4",
    ("raspberrypi,4-model-b", "brcm,bcm2711"),
    arm(V8, 0xD08),
    memory_kib=3_884_240,
    available_kib=3_500_000,
)
PI_5 = Fake(
    "Raspberry Pi 5 Model B Rev 1.0",
    ("raspberrypi,5-model-b", "brcm,bcm2712"),
    arm(V82, 0xD0B),
    memory_kib=8_256_000,
    available_kib=7_600_000,
    page_size=16384,
)
ORIN_NANO = Fake(
    "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
    ("nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"),
    arm(V82, 0xD42),
    cpus=6,
    memory_kib=7_802_000,
    available_kib=6_400_000,
)
DOT = ("asimd", "asimdhp", "asimddp")


@pytest.mark.parametrize(
    ("fake", "board", "cpu", "features"),
    [
        (PI_ZERO_2, "pi-zero-2", "Cortex-A53", ("asimd",)),
        (PI_4, "pi4", "Cortex-A72", ("asimd",)),
        (PI_5, "pi5", "Cortex-A76", DOT),
        (ORIN_NANO, "orin-nano", "Cortex-A78AE", DOT),
    ],
    ids=["pi-zero-2", "pi4", "pi5", "orin-nano"],
)
def test_a_board_is_told_by_its_device_tree(
    tmp_path: Path, fake: Fake, board: str, cpu: str, features: tuple[str, ...]
) -> None:
    found = probe(fake.write(tmp_path), machine="aarch64", bits=64, disk_free=lambda _: 5 * 10**9)
    assert (found.model, found.board) == (fake.model, board)
    assert (found.cpu, found.features, found.page_size) == (cpu, features, fake.page_size)
    assert (found.cores, found.logical, found.cpu_quota) == (fake.cpus, fake.cpus, None)
    assert found.memory_total == fake.memory_kib * 1024
    assert found.memory_available == fake.available_kib * 1024
    assert (found.memory_limit, found.swap_total) == (None, 99996 * 1024)
    assert (found.machine, found.bits, found.disk_free) == ("aarch64", 64, 5 * 10**9)
    assert found.kind is not None
    assert (found.kind.cpu, found.kind.cores) == (cpu, fake.cpus)


@pytest.mark.parametrize(
    ("compatible", "board"),
    [
        ("raspberrypi,3-model-b-plus", "pi3"),
        ("raspberrypi,400", "pi4"),
        ("raspberrypi,4-compute-module", "pi4"),
        ("raspberrypi,500", "pi5"),
        ("raspberrypi,5-compute-module", "pi5"),
        ("raspberrypi,model-zero-w", None),
        ("raspberrypi,2-model-b", None),
        ("nvidia,p3509-0000+p3767-0004", "orin-nano"),
        ("nvidia,p3768-0000+p3767-0000", "orin-nx"),
        ("nvidia,p3737-0000+p3701-0005", "agx-orin"),
        ("nvidia,tegra194", None),
    ],
)
def test_relatives_of_a_board_are_told_apart(tmp_path: Path, compatible: str, board: str | None) -> None:
    found = probe(Fake("x", (compatible,)).write(tmp_path))
    assert found.board == board
    assert found.board is None or found.board in BOARDS


def test_a_pc_is_told_by_its_firmware(tmp_path: Path) -> None:
    flags = "flags\t\t: fpu sse4_2 avx avx2 fma f16c avx512f avx512_vnni\n"
    fake = Fake(
        cpuinfo=f"vendor_id\t: GenuineIntel\nmodel name\t: Intel(R) N100\n{flags}",
        extra={"sys/class/dmi/id/sys_vendor": "ACME\n", "sys/class/dmi/id/product_name": "Mini 1\n"},
    )
    found = probe(fake.write(tmp_path), machine="x86_64")
    assert (found.model, found.board, found.kind) == ("ACME Mini 1", None, None)
    assert found.cpu == "Intel(R) N100"
    assert found.features == ("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni")


def test_only_processors_count_that_are_online_and_allowed(tmp_path: Path) -> None:
    extra = {
        "sys/devices/system/cpu/online": "0-2\n",
        "proc/self/status": "Cpus_allowed_list:\t1-3\n",
        "sys/fs/cgroup/cpu.max": "150000 100000\n",
    }
    found = probe(Fake(extra=extra).write(tmp_path))
    assert (found.logical, found.cores, found.cpu_quota) == (2, 2, 1.5)


def test_hardware_threads_of_one_core_count_once(tmp_path: Path) -> None:
    siblings = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    extra = {siblings.format(i): "0-1\n" if i < 2 else "2-3\n" for i in range(4)}
    found = probe(Fake(extra=extra).write(tmp_path))
    assert (found.cores, found.logical) == (2, 4)


# --- memory ---

MIB = 1 << 20


def memory(tmp_path: Path, extra: dict[str, str]) -> DeviceProfile:
    return probe(Fake(memory_kib=8192 * 1024, available_kib=4096 * 1024, extra=extra).write(tmp_path))


def test_the_tightest_group_around_this_process_counts(tmp_path: Path) -> None:
    base = "sys/fs/cgroup/"
    found = memory(
        tmp_path,
        {
            "proc/self/cgroup": "0::/system.slice/edge.service\n",
            base + "system.slice/memory.max": f"{1024 * MIB}\n",
            base + "system.slice/memory.current": f"{900 * MIB}\n",
            base + "system.slice/memory.stat": f"anon 5\ninactive_file {100 * MIB}\nactive_file 7\n",
            base + "system.slice/edge.service/memory.max": f"{512 * MIB}\n",
            base + "system.slice/edge.service/memory.current": f"{12 * MIB}\n",
        },
    )
    # The service has 500 MiB left, but its slice 1024 − 900 + 100 of pages that can be given up.
    assert found.memory_available == 224 * MIB
    assert found.memory_limit == 512 * MIB


def test_a_group_without_a_limit_leaves_the_systems_figure(tmp_path: Path) -> None:
    found = memory(tmp_path, {"sys/fs/cgroup/user.slice/memory.max": "max\n"})
    assert (found.memory_available, found.memory_limit) == (4096 * MIB, None)


def test_groups_of_version_1_count_as_well_and_in_a_container(tmp_path: Path) -> None:
    base = "sys/fs/cgroup/memory/"
    found = memory(
        tmp_path,
        {
            "proc/self/cgroup": "12:cpu,cpuacct:/docker/abc\n7:memory:/docker/abc\n0::/\n",
            # in a container the own group is mounted at the root, and the host's path is not there
            base + "memory.limit_in_bytes": f"{256 * MIB}\n",
            base + "memory.usage_in_bytes": f"{200 * MIB}\n",
            base + "memory.stat": f"inactive_file 1\ntotal_inactive_file {50 * MIB}\n",
        },
    )
    assert found.memory_limit == 256 * MIB
    assert found.memory_available == 106 * MIB


def test_version_1_writes_no_limit_as_a_large_number(tmp_path: Path) -> None:
    found = memory(
        tmp_path,
        {
            "proc/self/cgroup": "7:memory:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "5\n",
        },
    )
    assert (found.memory_available, found.memory_limit) == (4096 * MIB, None)


def test_a_group_over_its_limit_leaves_nothing_rather_than_less(tmp_path: Path) -> None:
    base = "sys/fs/cgroup/user.slice/"
    found = memory(tmp_path, {base + "memory.max": f"{MIB}\n", base + "memory.current": f"{3 * MIB}\n"})
    assert found.memory_available == 0


def test_old_kernels_without_memavailable_get_the_sum_of_what_is_free(tmp_path: Path) -> None:
    text = "MemTotal: 1000 kB\nMemFree: 100 kB\nBuffers: 10 kB\nCached: 200 kB\n"
    found = probe(Fake(extra={"proc/meminfo": text}).write(tmp_path))
    assert found.memory_available == 310 * 1024


# --- odd roots ---


def test_what_a_system_does_not_tell_is_none(tmp_path: Path) -> None:
    found = probe(tmp_path, disk_free=lambda _: None)
    nothing = (found.model, found.board, found.cpu, found.page_size, found.memory_total)
    assert nothing == (None,) * 5
    assert (found.memory_available, found.memory_limit, found.disk_free) == (None, None, None)
    assert found.features == ()
    assert found.cores >= 1


@settings(deadline=None)
@given(content=st.binary(max_size=300))
def test_no_content_of_the_files_makes_the_probe_fail(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    root = tmp_path_factory.mktemp("root")
    for name in (
        "proc/cpuinfo",
        "proc/meminfo",
        "proc/device-tree/model",
        "proc/device-tree/compatible",
        "proc/self/cgroup",
        "proc/self/status",
        "proc/self/auxv",
        "sys/fs/cgroup/memory.max",
        "sys/devices/system/cpu/online",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    found = probe(root)
    assert json.loads(json.dumps(found.to_json()))["features"] == list(found.features)


def test_this_machine_can_be_probed() -> None:
    found = probe()
    assert found.machine == platform.machine()
    assert found.cores <= found.logical
    assert found.bits in (32, 64)
    if platform.system() == "Linux":
        assert found.page_size in (4096, 16384, 65536)
        assert found.memory_total is not None
        assert found.memory_available is not None
        assert 0 < found.memory_available <= found.memory_total


def test_free_disk_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    here, below = free_disk(tmp_path), free_disk(tmp_path / "not" / "yet")
    assert here is not None
    assert below is not None
    assert abs(here - below) < 10**9  # other processes write meanwhile
