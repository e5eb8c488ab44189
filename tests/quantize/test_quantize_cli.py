"""The verb `edge-runtime quantize`: what it writes, prints and refuses."""

import json
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from edge_runtime.cli import cli
from model_zoo import open_package
from quantize.cli import command
from tests.support import CORPUS, make_checkpoint


@pytest.fixture(scope="module", autouse=True)
def verb():
    """The group finds the verb by its entry point once installed; a source tree has to be told."""
    known = dict(cli.commands)
    cli.add_command(command)
    yield
    cli.commands.clear()
    cli.commands.update(known)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("cli") / "checkpoint")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in CORPUS), encoding="utf-8")
    return path


def run(*arguments, code=0):
    result = CliRunner().invoke(cli, ["quantize", *map(str, arguments)])
    assert result.exit_code == code, result.output + result.stderr
    return result


def test_a_package_is_written_and_summed_up(source, tmp_path):
    out = tmp_path / "little"
    result = run(source, out, "--block-size", 32, "--context", 128)
    manifest = open_package(out).manifest
    assert (manifest.id, manifest.context_length) == ("little", 128)
    assert (manifest.quantization.scheme, manifest.quantization.block_size) == ("int4", 32)
    for part in ("LlamaForCausalLM", "int4 (", "blocks of 32", "128 tokens", "peak memory"):
        assert part in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["little"]


def test_json_is_one_object_with_the_manifest(source, tmp_path):
    result = run(source, tmp_path / "out", "--scheme", "int8", "--head-bits", 16, "--name", "mine", "--json")
    found = json.loads(result.stdout)
    assert found["manifest"] == open_package(tmp_path / "out").manifest.to_dict()
    assert found["manifest"]["id"] == "mine"
    assert found["manifest"]["quantization"]["head_bits"] == 16
    assert found["size_bytes"] == sum(entry["size"] for entry in found["manifest"]["files"].values())
    assert found["peak_memory_bytes"] > 1 << 20
    assert found["report"] is None


def test_the_report_compares_with_float32_and_is_kept_in_the_manifest(source, text, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'edge-runtime[plot]'")
    out, picture = tmp_path / "out", tmp_path / "report.png"
    result = run(source, out, "--report-text", text, "--report-picture", picture, "--json")
    report = json.loads(result.stdout)["report"]
    package = open_package(out)
    package.verify()
    assert package.manifest.evaluation["quantization"] == report
    assert 0 < report["kl_mean"] <= report["kl_p99"] <= report["kl_max"]
    assert report["package_bytes"] < report["reference_bytes"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "report.png"]


def test_float32_does_not_differ_from_itself(source, text, tmp_path):
    result = run(source, tmp_path / "out", "--scheme", "fp32", "--report-text", text, "--json")
    report = json.loads(result.stdout)["report"]
    assert report["kl_max"] < 1e-9
    assert report["top1_agreement"] == 1.0
    assert report["perplexity_ratio"] == pytest.approx(1.0)


def test_a_calibration_text_makes_gptq_the_method(source, text, tmp_path):
    result = run(source, tmp_path / "out", "--calibration-text", text, "--block-size", 32)
    assert open_package(tmp_path / "out").manifest.quantization.method == "gptq"
    assert "int4 (gptq, blocks of 32" in result.stdout
    assert "calibrating on" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_a_text_gptq_calibrates_on_the_models_own(source, tmp_path):
    out = tmp_path / "out"
    result = run(source, out, "--method", "gptq", "--block-size", 32, "--calibration-tokens", 600)
    assert open_package(out).manifest.quantization.method == "gptq"
    assert "calibrating on text of the model's own making" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["--method", "rtn", "--calibration-text", "TEXT"],
            6,
            "method 'rtn' does not use --calibration-text",
        ),
        (
            ["--scheme", "fp16", "--calibration-text", "TEXT"],
            6,
            "scheme 'fp16' does not use --calibration-text",
        ),
        (["--block-size", "48"], 6, "block_size is 48; it must be a power of two"),
        (["--context", "9999"], 6, "context length 9999 is not possible"),
        (["--report"], 2, "name it with --report-text FILE"),
        (["--report-text", "nowhere.txt"], 6, "the text file nowhere.txt is missing"),
        (["--calibration-text", "nowhere.txt"], 6, "the text file nowhere.txt is missing"),
        (["--exporter", "optimum", "--method", "gptq"], 6, "method 'gptq' belongs to the native exporter"),
        (["--exporter", "optimum", "--scheme", "fp16"], 6, "scheme 'fp16' belongs to the native exporter"),
        (["--exporter", "optimum", "--report-text", "TEXT"], 2, "--report needs the native exporter"),
        (["--scheme", "int5"], 2, "'int5' is not one of"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    source, text, tmp_path, arguments, code, message
):
    arguments = [text if part == "TEXT" else part for part in arguments]
    result = run(source, tmp_path / "out", *arguments, code=code)
    assert "edge-runtime: error: " in result.stderr
    assert re.search(message, result.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_taken_name_is_refused_unless_told_to_overwrite(source, tmp_path):
    run(source, tmp_path / "out")
    assert "exists already" in run(source, tmp_path / "out", code=4).stderr
    run(source, tmp_path / "out", "--scheme", "int8", "--overwrite")
    assert open_package(tmp_path / "out").manifest.quantization.scheme == "int8"


def test_a_source_that_is_neither_folder_nor_id_is_named(tmp_path):
    result = run("nowhere", tmp_path / "out", code=6)
    assert "'nowhere' is neither a folder nor a hub id" in result.stderr


def test_a_hub_id_is_fetched_and_recorded(source, tmp_path, monkeypatch):
    snapshot = tmp_path / "0123abc"
    snapshot.symlink_to(source)
    asked = []
    monkeypatch.setattr("quantize.hub.fetch", lambda name, progress: asked.append(name) or snapshot)
    run("owner/tiny@main", tmp_path / "out")
    manifest = open_package(tmp_path / "out").manifest
    assert asked == ["owner/tiny@main"]
    assert (manifest.source.repository, manifest.source.revision) == ("owner/tiny", "0123abc")


def test_errors_are_json_when_asked_for(source, tmp_path):
    result = run(source, tmp_path / "out", "--block-size", 48, "--json", code=6)
    assert result.stdout == ""
    assert json.loads(result.stderr)["error"]["type"] == "SchemeError"


def test_the_script_is_the_same_verb(source, tmp_path, repository):
    script = [sys.executable, str(repository / "tools" / "quantize.py")]
    done = subprocess.run(
        [*script, str(source), str(tmp_path / "out"), "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["manifest"] == open_package(tmp_path / "out").manifest.to_dict()
