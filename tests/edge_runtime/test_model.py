"""A package on disk becomes a model that generates, or an error that names what is wrong with it."""

import json
import shutil
from datetime import datetime, timezone
from pathlib import Path

import pytest
from support import make_checkpoint, make_package

from edge_runtime.errors import ChatTemplateError, ContextOverflowError, EngineError, TokenizerError
from edge_runtime.grammar import Grammar
from edge_runtime.model import LoadedModel
from edge_runtime.sampling import SamplingParams
from model_zoo import IntegrityError, Manifest, ModelNotFoundError, PackageWriter, open_package

TALK = [{"role": "user", "content": "turn off the lights in the kitchen"}]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("packages") / "tiny")


@pytest.fixture
def model(package: Path) -> LoadedModel:
    return LoadedModel.open(package, threads=1)


def repack(source: Path, target: Path, *, leave_out: str | None = None, **changes: object) -> Path:
    """A package like `source` with another manifest or without a file, consistent in itself."""
    fields = json.loads((source / "manifest.json").read_text())
    with PackageWriter(target) as writer:
        for name in fields["files"]:
            if name != leave_out:
                writer.copy(name, source / name)
        writer.commit(Manifest.from_dict({**fields, **changes}))
    return target


def test_a_package_generates(model: LoadedModel) -> None:
    done = model.generate(model.prompt(TALK), SamplingParams(max_tokens=12))
    assert done.usage["completion_tokens"] == len(done.tokens)
    assert done.evidence.n_scored == len(done.tokens)
    assert done.timings["peak_rss_mib"] > 0


def test_the_same_prompt_gives_the_same_text_from_the_cache(model: LoadedModel) -> None:
    prompt, params = model.prompt(TALK), SamplingParams(max_tokens=30)
    first, second = model.generate(prompt, params), model.generate(prompt, params)
    assert [t.id for t in first.tokens] == [t.id for t in second.tokens]
    assert first.usage["cached_tokens"] == 0
    assert second.usage["cached_tokens"] == len(prompt) - 1


def test_the_next_turn_computes_only_what_is_new(model: LoadedModel) -> None:
    answer = model.generate(model.prompt(TALK), SamplingParams(max_tokens=5, ignore_eos=True))
    # continue the very text: what the model said is cached but for its last token
    prompt = model.prompt(TALK) + [t.id for t in answer.tokens] + model.tokenizer.encode(" and then?")
    after = model.generate(prompt, SamplingParams(max_tokens=5))
    assert after.usage["cached_tokens"] == len(model.prompt(TALK)) + 4


def test_the_cache_never_changes_the_text(package: Path) -> None:
    params = SamplingParams(max_tokens=20)
    prompts = [[1, *range(30, 60), *tail] for tail in ([70, 71], [70, 72], [80], [70, 71, 72, 73])]
    cached = LoadedModel.open(package, threads=1)
    fresh = LoadedModel.open(package, threads=1, prefix_cache_bytes=0)
    for prompt in [*prompts, *reversed(prompts)]:
        left, right = cached.generate(prompt, params), fresh.generate(prompt, params)
        assert [t.id for t in left.tokens] == [t.id for t in right.tokens]
        assert right.usage["cached_tokens"] == 0


def test_structured_output_from_a_package(model: LoadedModel) -> None:
    schema = {
        "type": "object",
        "properties": {"on": {"type": "boolean"}},
        "required": ["on"],
        "additionalProperties": False,
    }
    done = model.generate(model.prompt(TALK), SamplingParams(), grammar=Grammar.json_schema(schema))
    assert done.text in ('{"on":true}', '{"on":false}')
    assert done.usage["forward_passes"] == 1


def test_drafting_gives_the_same_answer(model: LoadedModel) -> None:
    prompt, params = model.prompt(TALK), SamplingParams(max_tokens=120, ignore_eos=True)
    plain, drafted = model.generate(prompt, params), model.generate(prompt, params, speculative=True)
    assert [t.id for t in plain.tokens] == [t.id for t in drafted.tokens]
    assert drafted.evidence.mean_logprob == pytest.approx(plain.evidence.mean_logprob, abs=1e-4)


def test_a_raw_text_is_a_prompt_too(model: LoadedModel) -> None:
    assert model.generate("set the bedroom", SamplingParams(max_tokens=3)).usage["prompt_tokens"] == len(
        model.tokenizer.encode("set the bedroom")
    )


def test_an_empty_text_starts_from_the_start_token(model: LoadedModel) -> None:
    assert model.generate("", SamplingParams(max_tokens=3)).usage["prompt_tokens"] == 1


def test_a_prompt_longer_than_the_context_names_both_numbers(model: LoadedModel) -> None:
    prompt = model.tokenizer.encode("kitchen " * 300)
    with pytest.raises(
        ContextOverflowError, match=rf"{len(prompt)} tokens of prompt .* 'tiny' is 256 tokens"
    ):
        model.generate(prompt, SamplingParams())


def test_the_oldest_turns_are_left_out_until_the_rest_fits(model: LoadedModel) -> None:
    turns = [{"role": "system", "content": "Be brief."}]
    for i in range(20):
        turns += [
            {"role": "user", "content": f"question {i}"},
            {"role": "assistant", "content": f"answer {i}"},
        ]
    turns.append({"role": "user", "content": "the last question"})
    tokens, dropped = model.fit(turns, max_tokens=40)
    text = model.tokenizer.decode(tokens)
    assert len(tokens) <= 256 - 40
    assert dropped > 0
    assert dropped % 2 == 0
    assert "Be brief." in text
    assert "the last question" in text
    assert "question 0" not in text
    assert model.fit(turns[-3:])[1] == 0


def test_a_last_message_that_does_not_fit_cannot_be_left_out(model: LoadedModel) -> None:
    with pytest.raises(ContextOverflowError, match=r"the last message makes a prompt of .* is 256 tokens"):
        model.fit([{"role": "user", "content": "kitchen " * 300}])


def test_the_template_sees_special_tokens_and_the_clock(tmp_path: Path) -> None:
    template = "{{ bos_token }}{{ strftime_now('%Y-%m-%d') }}{{ messages[0].content }}{{ eos_token }}"
    package = make_package(tmp_path / "dated", template=template)
    model = LoadedModel.open(package, threads=1, now=lambda: datetime(2026, 3, 5, tzinfo=timezone.utc))
    assert model.prompt(TALK)[0] == 1
    assert model.prompt(TALK)[-1] == 0
    assert "2026-03-05turn off" in model.tokenizer.decode(model.prompt(TALK))


# --- packages that cannot be used ---------------------------------------------------------------------------


def test_no_such_package() -> None:
    with pytest.raises(ModelNotFoundError):
        LoadedModel.open("no-such-model")


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_a_damaged_package_is_refused_before_anything_runs(
    package: Path, tmp_path: Path, name: str, damage: str
) -> None:
    copy = shutil.copytree(package, tmp_path / "copy")
    content = (copy / name).read_bytes()
    if damage == "missing":
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(content[:-1] if damage == "truncated" else b"\x00" + content[1:])
    with pytest.raises(IntegrityError, match=name.replace(".", r"\.")):
        LoadedModel.open(copy)


def test_a_package_without_a_tokenizer_says_what_it_needs(package: Path, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is missing"):
        LoadedModel.open(repack(package, tmp_path / "bare", leave_out="tokenizer.json"))


def test_a_package_without_a_chat_template_still_takes_raw_prompts(tmp_path: Path) -> None:
    model = LoadedModel.open(make_package(tmp_path / "plain", template=None), threads=1)
    with pytest.raises(ChatTemplateError, match=r"has no chat_template\.jinja"):
        model.prompt(TALK)
    assert model.generate("turn off", SamplingParams(max_tokens=2)).tokens


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"engine": "mlc"}, "needs the engine 'mlc', which this release does not have"),
        (
            {"engine_options": {"graph": "odd"}},
            "a graph of kind 'odd'; this release runs 'fused' and 'generic'",
        ),
        ({"engine_options": {"graph": "fused", "version": 9}}, "has version 9, this release runs version 1"),
    ],
)
def test_a_package_for_another_engine_is_refused(
    package: Path, tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    with pytest.raises(EngineError, match=told):
        LoadedModel.open(repack(package, tmp_path / "other", **changes))


def test_engine_options_come_from_arguments_and_environment(package: Path) -> None:
    assert LoadedModel.open(package, environ={"EDGE_ENGINE_THREADS": "1"}).engine.info.threads == 1
    assert LoadedModel.open(package, threads=2, environ={"EDGE_ENGINE_THREADS": "1"}).engine.info.threads == 2
    with pytest.raises(EngineError, match="unknown engine option 'thread'"):
        LoadedModel.open(package, engine_options={"thread": 1})


def test_an_opened_package_can_be_handed_over(package: Path) -> None:
    assert LoadedModel.open(open_package(package), threads=1).id == "tiny"


def test_a_checkpoint_is_not_a_package(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"manifest\.json"):
        LoadedModel.open(make_checkpoint(tmp_path / "checkpoint"))
