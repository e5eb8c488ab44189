"""Data sets: publishers' files become our rows, known files are recognised, answers become outcomes."""

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edge_runtime.errors import DataError
from edge_runtime.evaluation.rows import to_case
from tools import data_sources as sources
from tools import datasets
from tools.datasets import DATASETS, Known, check, main, outcomes_of


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_annotations_become_spans_of_the_text() -> None:
    record = {
        "scenario": "audio",
        "intent": "volume_mute",
        "answer_annotation": "i've got a meeting by [timeofday : tonight] mute for [time : an hour]",
    }
    row = sources.hwu_row(record)
    assert row["text"] == "i've got a meeting by tonight mute for an hour"
    assert row["intent"] == "audio_volume_mute"
    assert [row["text"][e["start"] : e["end"]] for e in row["entities"]] == ["tonight", "an hour"]
    assert [e["value"] for e in row["entities"]] == ["tonight", "an hour"]
    assert [e["entity"] for e in row["entities"]] == ["timeofday", "time"]
    assert to_case(row).kind == "hwu64"


def test_csv_files_of_both_parts_are_read() -> None:
    head = "answerid;scenario;intent;answer_annotation;answer_from_anno;answer_from_user\n"
    line = '1;iot;coffee;"make ""strong"" coffee; now";"x";"y"\n'
    made = sources.from_hwu({"train/iot_coffee": (head + line).encode(), "test/iot_coffee": head.encode()})
    assert rows(made["train.jsonl"]) == [
        {"text": 'make "strong" coffee; now', "intent": "iot_coffee", "entities": []}
    ]
    assert made["test.jsonl"] == ""


def test_parts_of_clinc_are_taken_apart() -> None:
    names = ("train", "val", "test", "oos_train", "oos_val", "oos_test")
    content = json.dumps({name: [[f"say {name}", "oos"]] for name in names})
    made = sources.from_clinc({"data_full.json": content.encode()})
    assert set(made) == {f"{name}.jsonl" for name in names}
    assert rows(made["oos_val.jsonl"]) == [{"text": "say oos_val", "intent": "oos"}]


def test_six_models_answers_to_a_question_come_together() -> None:
    weak, strong = "mixtral-8x7b-instruct-v0.1", "gpt-4-1106-preview"
    table = f"prompt,{weak},{strong},{weak}_response,{strong}_response\n"
    table += 'What is 1+1?,False,True,"it is\n3",2\nUnknown?,True,True,a,b\n'
    theirs = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    solved = {name: {"is_correct": name[0] == "6", "solution": name} for name in theirs}
    example = json.dumps({"question": "What is 1+1? ", **solved})
    made = sources.from_gsm8k(
        {"gsm8k_responses.csv": table.encode(), "example_model_solutions.jsonl": example.encode()}
    )
    (row,) = rows(made["public.jsonl"])
    assert row["mixtral_8x7b"] == {"correct": False, "response": "it is\n3"}
    assert row["gpt_4_1106"] == {"correct": True, "response": "2"}
    assert row["gpt3_6b_verification"] == {"correct": True, "response": "6b_verification"}
    assert row["gpt3_175b_finetuning"]["correct"] is False


def test_verdicts_per_subject_are_numbered() -> None:
    table = b"prompt,mixtral-8x7b-instruct-v0.1,gpt-4-1106-preview\nq0,True,False\nq1,False,True\n"
    made = sources.from_mmlu({"anatomy": table})
    assert rows(made["public.jsonl"])[1] == {
        "subject": "anatomy",
        "row": 1,
        "prompt": "q1",
        "mixtral_8x7b": False,
        "gpt_4_1106": True,
    }


def test_home_assistants_archive_is_unpacked_without_its_folder() -> None:
    pytest.importorskip("yaml", reason="PyYAML is not installed: pip install 'edge-runtime[train]'")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("intents-main/intents.yaml", "HassTurnOn: {}\n")
        archive.writestr("intents-main/tests/en/_fixtures.yaml", "areas: []\n")
        archive.writestr("intents-main/sentences/en/light_HassLightSet.yaml", "language: en\n")
        archive.writestr("intents-main/sentences/de/light_HassLightSet.yaml", "language: de\n")
        archive.writestr(
            "intents-main/tests/en/light_HassTurnOn.yaml",
            "language: en\ntests:\n  - sentences: [lights on, kitchen on]\n    intent:\n"
            "      name: HassTurnOn\n      context: {area: Kitchen}\n      slots: {domain: light}\n",
        )
    made = sources.from_home_assistant({"intents.zip": buffer.getvalue()})
    assert set(made) == {
        "intents.yaml",
        "fixtures.yaml",
        "sentences/en/light_HassLightSet.yaml",
        "tests_en.jsonl",
    }
    assert rows(made["tests_en.jsonl"])[1] == {
        "file": "light_HassTurnOn.yaml",
        "text": "kitchen on",
        "intent": "HassTurnOn",
        "slots": {"domain": "light"},
        "context": {"area": "Kitchen"},
    }


def test_the_same_rows_have_the_same_digest_in_any_order() -> None:
    assert sources.rows_digest('{"a": 1}\n{"b": 2}\n') == sources.rows_digest('{"b":2}\n\n{"a":1}')
    assert sources.rows_digest('{"a": 1}\n') != sources.rows_digest('{"a": 2}\n')


def test_every_address_is_encrypted_and_every_hash_whole() -> None:
    for dataset in DATASETS.values():
        if dataset.source is not None:
            assert all(address.startswith("https://") for address in dataset.source.addresses())
        for digest in (*(k.sha256 for k in dataset.files.values()), *dataset.also.values()):
            assert len(bytes.fromhex(digest)) == 32
    digests = [k.sha256 for d in DATASETS.values() for k in d.files.values()]
    assert len(set(digests)) == len(digests)


def test_files_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = DATASETS["routing_mmlu"]
    monkeypatch.setattr(
        "tools.datasets.DATASETS",
        {"routing_mmlu": replace(dataset, files={"public.jsonl": Known(1, "0" * 64, whole=False)})},
    )
    monkeypatch.setenv("EDGE_DATA_DIR", str(tmp_path))
    folder = tmp_path / "routing_mmlu"
    folder.mkdir()
    small = datasets.find("routing_mmlu")
    assert list(check(small, tmp_path)) == [("public.jsonl", "missing")]
    (folder / "public.jsonl").write_text("{}\n")
    assert list(check(small, tmp_path)) == [("public.jsonl", "other rows")]
    assert CliRunner().invoke(main, ["verify"]).exit_code == 1
    (folder / "public.jsonl").write_text("{}\n{}\n")
    assert list(check(small, tmp_path)) == [("public.jsonl", "all rows")]
    assert CliRunner().invoke(main, ["verify", "--json"]).exit_code == 0


def test_answers_become_outcomes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_DATA_DIR", str(tmp_path))
    folder = tmp_path / "llama13b_mmlu_probs"
    folder.mkdir()
    row = {"subject": "anatomy", "row": 3, "probs": [[0.6, 0.4], [0.1, 0.9]], "target": 1}
    (folder / "public.jsonl").write_text(json.dumps(row) + "\n")
    (outcome,) = outcomes_of("llama13b_mmlu_probs")
    assert (outcome.weak_correct, outcome.response, outcome.strong_correct) == (True, "B", None)
    assert outcome.option_probs == ((0.6, 0.4), (0.1, 0.9))
    done = CliRunner().invoke(main, ["convert", "llama13b_mmlu_probs", str(tmp_path / "out.jsonl")])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out.jsonl").read_text())["id"] == "anatomy/3"


def test_what_cannot_be_had_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set EDGE_DATA_DIR .* python -m tools.datasets fetch routing_mmlu"):
        outcomes_of("routing_mmlu", folder=tmp_path)
    with pytest.raises(DataError, match=r"python -m tools.pair_outcomes"):
        outcomes_of("hwu64", folder=tmp_path)
    with pytest.raises(DataError, match=r"no answers of 'gpt_5'; it has mixtral_8x7b"):
        outcomes_of("routing_gsm8k", weak="gpt_5", folder=tmp_path)
    done = CliRunner().invoke(main, ["convert", "mmlu", str(tmp_path / "x")])
    assert "there is no set 'mmlu'; there are clinc150" in done.output


def test_the_sets_at_hand_are_those_that_were_measured(data_dir: Path) -> None:
    for dataset in DATASETS.values():
        if (data_dir / dataset.name).is_dir():
            assert {verdict for _, verdict in check(dataset, data_dir)} <= {"as measured", "all rows"}
    for file, digest in sources.ROWS.items():
        if not (data_dir / file).is_file():
            continue
        assert sources.rows_digest((data_dir / file).read_text("utf-8")) == digest
