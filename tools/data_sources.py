"""Publishers' files of the data sets: their addresses, and what our rows are made of.

Addresses name a commit where one is known to hold the file, and a branch otherwise. The SHA-256 of the
publishers' own files were not at hand when this was written; what is checked is what becomes of them (`ROWS`,
and the hashes in `datasets.py`).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from model_zoo.download import Wanted, download

RAW = "https://raw.githubusercontent.com"

ROWS: Mapping[str, str] = {
    "clinc150/train.jsonl": "6a4a79ae4088f3abf9122774828e24486c2843fd962d51178ddf24c913faebd1",
    "clinc150/val.jsonl": "fe6d20d7ce97e21418f7e985e0acd5be97252378e0a7b3ab6ef548a4dc398e83",
    "clinc150/oos_train.jsonl": "75674dad099cebf0f5902f6789649d8d3a80a8b15ec47f761fd297c201b30a16",
    "clinc150/oos_val.jsonl": "ab634044933e486b995416a80aa86161a4074a2964d80d50f5c5dee141c60255",
    "hwu64/train.jsonl": "cc0693ecc6e40a7ed176a00ba4abf3f03dfce84b4fa468f011e227afa52f0080",
}
"""`rows_digest` of the parts that are used whole."""


@dataclass(frozen=True, slots=True)
class Source:
    """Files by a short name, and how they become our files.

    `convert` takes each file's content by its short name and gives the text of each of our files.
    """

    files: Mapping[str, str]
    convert: Callable[[Mapping[str, bytes]], dict[str, str]]

    def addresses(self) -> Iterator[str]:
        """Every address that is fetched."""
        yield from self.files.values()


def fetch(source: Source, folder: Path, step: Callable[[int, int | None], None]) -> dict[str, bytes]:
    """The publisher's files, from `folder` where an earlier call left them.

    Raises:
        DownloadError, StoreError: as `model_zoo.download.download`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = {name: folder / name.replace("/", "_") for name in source.files}
    wanted = [Wanted(source.files[name], place, label=name) for name, place in places.items()]
    download(wanted, progress=lambda label, done, total: step(done, total))
    return {name: place.read_bytes() for name, place in places.items()}


def rows_digest(text: str) -> str:
    """SHA-256 of the rows in sorted order: the same for the same rows in any order and spacing."""
    rows = sorted(
        json.dumps(json.loads(line), ensure_ascii=False, sort_keys=True)
        for line in text.splitlines()
        if line.strip()
    )
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def lines(rows: Iterator[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def from_clinc(files: Mapping[str, bytes]) -> dict[str, str]:
    """`data_full.json`: {part: [[text, intent], …]}, out-of-scope parts apart."""
    parts = json.loads(files["data_full.json"])
    names = ("train", "val", "test", "oos_train", "oos_val", "oos_test")
    return {
        f"{name}.jsonl": lines({"text": text, "intent": intent} for text, intent in parts[name])
        for name in names
    }


_ENTITY = re.compile(r"\[\s*(?P<entity>[^\[\]:]+?)\s*:\s*(?P<value>[^\[\]]*?)\s*\]")


def hwu_row(record: Mapping[str, str]) -> dict[str, Any]:
    """A line of the publisher's CSV: `set [device_type : music system] to mute` becomes text and spans."""
    annotated, text, entities, at = record["answer_annotation"], "", [], 0
    for found in _ENTITY.finditer(annotated):
        text += annotated[at : found.start()]
        start = len(text)
        text += found["value"]
        entities.append(
            {"start": start, "end": len(text), "value": found["value"], "entity": found["entity"]}
        )
        at = found.end()
    text += annotated[at:]
    return {"text": text, "intent": f"{record['scenario']}_{record['intent']}", "entities": entities}


def from_hwu(files: Mapping[str, bytes]) -> dict[str, str]:
    def part(name: str) -> Iterator[dict[str, Any]]:
        for path, content in files.items():
            if path.startswith(f"{name}/"):
                yield from map(
                    hwu_row, csv.DictReader(io.StringIO(content.decode("utf-8-sig")), delimiter=";")
                )

    return {"train.jsonl": lines(part("train")), "test.jsonl": lines(part("test"))}


def from_gsm8k(files: Mapping[str, bytes]) -> dict[str, str]:
    """RouteLLM's cached responses, beside OpenAI's example solutions of the same test questions."""
    examples = {}
    for line in files["example_model_solutions.jsonl"].decode().splitlines():
        row = json.loads(line)
        examples[row["question"].strip()] = row
    ours = {
        "gpt3_6b_finetuning": "6b_finetuning",
        "gpt3_6b_verification": "6b_verification",
        "gpt3_175b_finetuning": "175b_finetuning",
        "gpt3_175b_verification": "175b_verification",
    }

    def rows() -> Iterator[dict[str, Any]]:
        table = csv.DictReader(io.StringIO(files["gsm8k_responses.csv"].decode("utf-8")))
        for index, record in enumerate(table):
            example = examples.get(record["prompt"].strip())
            if example is None:
                continue
            yield {
                "index": index,
                "prompt": record["prompt"],
                "question": example["question"],
                "mixtral_8x7b": _answered(record, "mixtral"),
                "gpt_4_1106": _answered(record, "gpt-4"),
                **{
                    name: {
                        "correct": bool(example[theirs]["is_correct"]),
                        "response": example[theirs]["solution"],
                    }
                    for name, theirs in ours.items()
                },
            }

    return {"public.jsonl": lines(rows())}


def _answered(record: Mapping[str, str], model: str) -> dict[str, Any]:
    """A model's verdict (the column named after it) and response (its column that ends in `response`)."""
    columns = [name for name in record if model in name.lower()]
    verdict = next(name for name in columns if "response" not in name.lower())
    response = next((name for name in columns if "response" in name.lower()), None)
    return {"correct": record[verdict] == "True", "response": record[response] if response else ""}


def from_mmlu(files: Mapping[str, bytes]) -> dict[str, str]:
    def rows() -> Iterator[dict[str, Any]]:
        for subject, content in files.items():
            for number, record in enumerate(csv.DictReader(io.StringIO(content.decode("utf-8")))):
                yield {
                    "subject": subject,
                    "row": number,
                    "prompt": record["prompt"],
                    "mixtral_8x7b": _answered(record, "mixtral")["correct"],
                    "gpt_4_1106": _answered(record, "gpt-4")["correct"],
                }

    return {"public.jsonl": lines(rows())}


def from_home_assistant(files: Mapping[str, bytes]) -> dict[str, str]:
    """The repository as a zip: templates and definitions as they are, tests as rows."""
    import yaml  # in the extra `train`

    made: dict[str, str] = {}
    tests: list[dict[str, Any]] = []
    with zipfile.ZipFile(io.BytesIO(files["intents.zip"])) as archive:
        for entry in sorted(archive.namelist()):
            path = PurePosixPath(*PurePosixPath(entry).parts[1:])
            if path.suffix != ".yaml":
                continue
            text = archive.read(entry).decode("utf-8")
            if path == PurePosixPath("intents.yaml"):
                made["intents.yaml"] = text
            elif path == PurePosixPath("tests/en/_fixtures.yaml"):
                made["fixtures.yaml"] = text
            elif path.parent == PurePosixPath("sentences/en"):
                made[f"sentences/en/{path.name}"] = text
            elif path.parent == PurePosixPath("tests/en"):
                tests += ha_rows(path.name, yaml.safe_load(text))
    made["tests_en.jsonl"] = lines(iter(tests))
    return made


def ha_rows(file: str, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of one of Home Assistant's test files: one per sentence."""
    return [
        {
            "file": file,
            "text": sentence,
            "intent": test["intent"]["name"],
            "slots": test["intent"].get("slots") or {},
            "context": test["intent"].get("context") or {},
        }
        for test in content.get("tests") or []
        for sentence in test["sentences"]
    ]


_HWU = (
    f"{RAW}/xliuhw/NLU-Evaluation-Data/4356cd6db2c7d8cb21789d6203e57c580a91de44/CrossValidation/"
    "autoGeneFromRealAnno/autoGene_2018_03_22-13_01_25_169/CrossValidation/KFold_1"
)
_RESPONSES = f"{RAW}/lm-sys/RouteLLM/main/routellm/evals/mmlu/responses"

_HWU_FILES = """
    alarm_query alarm_remove alarm_set audio_volume_down audio_volume_mute audio_volume_up calendar_query
    calendar_remove calendar_set cooking_recipe datetime_convert datetime_query email_addcontact
    email_query email_querycontact email_sendemail general_affirm general_commandstop general_confirm
    general_dontcare general_explain general_joke general_negate general_praise general_quirky
    general_repeat iot_cleaning iot_coffee iot_hue_lightchange iot_hue_lightdim iot_hue_lightoff
    iot_hue_lighton iot_hue_lightup iot_wemo_off iot_wemo_on lists_createoradd lists_query lists_remove
    music_likeness music_query music_settings news_query play_audiobook play_game play_music play_podcasts
    play_radio qa_currency qa_definition qa_factoid qa_maths qa_stock recommendation_events
    recommendation_locations recommendation_movies social_post social_query takeaway_order takeaway_query
    transport_query transport_taxi transport_ticket transport_traffic weather_query
"""
HWU_INTENTS = tuple(_HWU_FILES.split())
"""Names of the publisher's CSV files, and our intents."""

_MMLU_FILES = """
    abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology
    college_chemistry college_computer_science college_mathematics college_medicine college_physics
    computer_security conceptual_physics econometrics electrical_engineering elementary_mathematics
    formal_logic global_facts high_school_biology high_school_chemistry high_school_computer_science
    high_school_european_history high_school_geography high_school_government_and_politics
    high_school_macroeconomics high_school_mathematics high_school_microeconomics high_school_physics
    high_school_psychology high_school_statistics high_school_us_history high_school_world_history
    human_aging human_sexuality international_law jurisprudence logical_fallacies machine_learning
    management marketing medical_genetics miscellaneous moral_disputes moral_scenarios nutrition
    philosophy prehistory professional_accounting professional_law professional_medicine
    professional_psychology public_relations security_studies sociology us_foreign_policy virology
    world_religions
"""
MMLU_SUBJECTS = tuple(_MMLU_FILES.split())
"""Names of the publisher's CSV files."""

CLINC150 = Source(
    {
        "data_full.json": f"{RAW}/clinc/oos-eval/master/data/data_full.json",
    },
    from_clinc,
)
HWU64 = Source(
    {
        f"{part}/{intent}": f"{_HWU}/{folder}/{intent}.csv"
        for part, folder in (("train", "trainset"), ("test", "testset/csv"))
        for intent in HWU_INTENTS
    },
    from_hwu,
)
HA_INTENTS = Source(
    {"intents.zip": "https://codeload.github.com/home-assistant/intents/zip/refs/heads/main"},
    from_home_assistant,
)
GSM8K = Source(
    {
        "gsm8k_responses.csv": f"{RAW}/lm-sys/RouteLLM/c2ad69388688796a93a4424e7a0dc9072ea372d2/"
        "routellm/evals/gsm8k/gsm8k_responses.csv",
        "example_model_solutions.jsonl": f"{RAW}/openai/grade-school-math/"
        "3ab487330c1f3c28650d4bcd30bb51d33a14d404/grade_school_math/data/example_model_solutions.jsonl",
    },
    from_gsm8k,
)
MMLU = Source(
    {subject: f"{_RESPONSES}/mmlu_{subject}.csv" for subject in MMLU_SUBJECTS},
    from_mmlu,
)
