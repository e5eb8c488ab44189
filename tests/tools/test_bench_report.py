"""Tables, the page's sections, the picture, variants, and what a token reads."""

import json

import numpy as np
import pytest

from tools.bench import report
from tools.bench.adapters import RowEvidence
from tools.bench.machine import busy_cpu, describe
from tools.bench.prepare import bytes_per_token, variant


def figures(decode, prefill, disturbed=False):
    return {"decode_tps": decode, "prefill_tps": prefill, "ttft_s": 0.5, "disturbed": disturbed}


@pytest.fixture
def run():
    return {
        "shape": "tiny",
        "threads": 2,
        "prompts": [128],
        "order": ["ours", "peer"],
        "engines": {"ours": {"group": "ours", "evidence": True}, "peer": {"group": "p", "evidence": False}},
        "summaries": {"ours": {"128": figures(20.04, 200.4)}, "peer": {"128": figures(10, 100, True)}},
        "limits": {"ours": 30.0},
        "memory": {"ours": {"load_s": 0.25, "peak": 100 * 2**20, "anon": 60 * 2**20, "file": 40 * 2**20},
                   "peer": {"peak": 200 * 2**20}},
    }  # fmt: skip


def test_the_speed_table_marks_disturbed_figures_and_names_the_limit(run):
    lines = report.speed_table(run).splitlines()
    assert lines[0] == "| engine | evidence | decode after 128 | prefill 128 | ttft 128, s |"
    assert lines[2] == "| ours | yes | 20.0 | 200 | 0.50 |"
    assert lines[3] == "| peer | no | 10.0* | 100* | 0.50 |"
    assert lines[4].startswith("| memory bandwidth limit, ours |  | 30.0 |")
    assert lines[4].count("|") == lines[0].count("|")
    assert "free of other processes' work" in lines[-1]


def test_the_ratio_table_leaves_unknown_ratios_empty():
    ratios = {"peer": {"decode": {"128": 2.0}, "prefill": {"128": None}}}
    assert report.ratio_table(ratios, [128]).splitlines()[2] == "| peer | 2.00× |  |"


def test_the_memory_table_is_in_mib_and_leaves_unknown_figures_empty(run):
    lines = report.memory_table(run).splitlines()
    assert lines[2:] == ["| ours | 0.25 | 100 | 60 | 40 |", "| peer |  | 200 |  |  |"]


def test_a_section_of_the_page_is_replaced_and_the_rest_is_kept(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n\\1\n<!-- /a -->\nafter\n")
    report.put_section(page, "a", "new \\1\n\n")
    assert page.read_text() == "before\n<!-- a -->\nnew \\1\n<!-- /a -->\nafter\n"
    with pytest.raises(ValueError, match=r"expected one section <!-- b --> … <!-- /b -->, found 0"):
        report.put_section(page, "b", "")


def test_the_picture_is_drawn(run, tmp_path):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib: pip install 'edge-runtime[plot]'")
    report.picture([run, run], tmp_path / "images" / "bench.png")
    assert (tmp_path / "images" / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_variants_name_a_scheme_and_its_changes():
    assert variant("int4").changes == {}
    found = variant("int4:block_size=128,method=search")
    assert (found.scheme, found.changes) == ("int4", {"block_size": 128, "method": "search"})
    assert found.title == "int4, block 128, search"
    assert variant("int4:pad_blocks=1").title == "int4, padded"
    with pytest.raises(ValueError, match="expected SCHEME or SCHEME:FIELD=VALUE,…, but found '128'"):
        variant("int4:128")


def test_row_evidence_agrees_with_the_definition():
    rng = np.random.default_rng(0)
    for vocab in (49152, 2969, 7):
        row = rng.normal(0, 3, max(vocab, 16)).astype(np.float32)
        token, logprob, entropy, margin = RowEvidence(row.size)(row)
        wide = row.astype(np.float64)
        logp = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
        order = np.argsort(-wide)
        assert token == order[0]
        assert logprob == pytest.approx(logp[order[0]], abs=1e-4)
        assert entropy == pytest.approx(-(np.exp(logp) * logp).sum(), abs=1e-3)
        assert margin == pytest.approx(logp[order[0]] - logp[order[1]], abs=1e-5)


def test_busy_cpu_counts_stolen_time_and_leaves_idle_out(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 30 99999 88888 1 2 47 0 0\ncpu0 1 1 1 1\n")
    assert busy_cpu(stat) == pytest.approx(2.0)  # 200 ticks of 1/100 s
    assert busy_cpu(tmp_path / "missing") is None


def test_the_machine_is_described_from_its_files(tmp_path):
    cpuinfo, meminfo = tmp_path / "cpuinfo", tmp_path / "meminfo"
    cpuinfo.write_text("model name : Some CPU\nflags : fpu avx2 avx512f\n")
    meminfo.write_text("MemTotal:       2048 kB\n")
    found = describe(cpuinfo, meminfo)
    assert found["cpu"] == "Some CPU"
    assert found["instruction_sets"] == ["avx2", "avx512f"]
    assert found["memory_bytes"] == 2048 * 1024
    assert report.machine_line(found).startswith("Some CPU, ")


def test_a_token_reads_every_matrix_once_and_no_table(tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    def tensor(name, kind, dims):
        size = int(np.prod(dims)) * np.dtype(helper.tensor_dtype_to_np_dtype(kind)).itemsize
        return helper.make_tensor(name, kind, dims, b"\0" * size, raw=True)

    weights = [
        tensor("head", TensorProto.UINT8, [10, 1, 16]),
        tensor("scales", TensorProto.FLOAT, [10, 1]),
        tensor("table", TensorProto.UINT8, [10, 16]),
    ]
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("MatMulNBits", ["x", "head", "scales"], ["y"], domain="com.microsoft"),
        helper.make_node("MatMulNBits", ["x", "head", "scales"], ["z"], domain="com.microsoft"),
    ]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [], [], weights)), tmp_path / "model.onnx")
    assert bytes_per_token(tmp_path) == 160 + 40


def test_the_figures_are_saved_as_json(run, tmp_path):
    report.save(tmp_path / "x" / "run.json", [run], {"cpu": "c"})
    assert json.loads((tmp_path / "x" / "run.json").read_text())["runs"][0]["order"] == ["ours", "peer"]
