"""What the process is said to take is what the system says."""

import subprocess
import sys
from pathlib import Path

from edge_runtime.memory import Memory, peak_rss_mib, read_memory

STATUS = "Name:\tpython\nVmHWM:\t  204800 kB\nRssAnon:\t  102400 kB\nRssFile:\t   51200 kB\n"


def test_the_lines_of_the_status_file_are_read_as_mebibytes(tmp_path: Path) -> None:
    (tmp_path / "status").write_text(STATUS)
    assert read_memory(tmp_path / "status") == Memory(200.0, 100.0, 50.0)
    assert peak_rss_mib(tmp_path / "status") == 200.0


def test_without_the_file_nothing_is_made_up(tmp_path: Path) -> None:
    assert read_memory(tmp_path / "nowhere") == Memory(None, None, None)
    (tmp_path / "odd").write_text("VmHWM: much\n")
    assert read_memory(tmp_path / "odd") == Memory(None, None, None)
    assert peak_rss_mib(tmp_path / "nowhere") > 0  # getrusage tells


def test_the_peak_of_a_child_leaves_out_what_its_parent_held() -> None:
    held = bytearray(256 << 20)
    code = "from edge_runtime.memory import peak_rss_mib; print(peak_rss_mib())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert float(done.stdout) < 200
    assert len(held) == 256 << 20
