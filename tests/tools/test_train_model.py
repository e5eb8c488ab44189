"""The model that is trained is the model that is exported, and a run goes on where it stopped."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'edge-runtime[train]'")
pytest.importorskip("hassil", reason="hassil is not installed: pip install 'edge-runtime[train]'")
pytest.importorskip("yaml", reason="PyYAML is not installed: pip install 'edge-runtime[train]'")

import torch

from edge_runtime.evaluation.frames import Frame
from tools.train import vocabulary as v
from tools.train.config import ModelConfig, TrainConfig
from tools.train.data import Example, encode
from tools.train.export import difference, export
from tools.train.grow import grow, positions
from tools.train.loop import batches, loss_of, optimizers, pad, score, start
from tools.train.model import Decoder
from tools.train.muon import Muon, orthogonalise

pytestmark = pytest.mark.heavy

TINY = ModelConfig(vocab_size=400, hidden=32, layers=2, heads=4, kv_heads=2, ffn=48, context=512, dropout=0.0)
EXAMPLES = [
    Example(v.TAG_HOME, "lights off in the kitchen", Frame("HassTurnOff", {"area": "kitchen"})),
    Example(v.TAG_HWU, "wake me", Frame("alarm_set", {})),
]


@pytest.fixture(scope="module")
def tokenizer() -> object:
    texts = ["lights off in the kitchen", "wake me at five"] * 20
    return v.train_tokenizer(texts, 350, ["HassTurnOff", "alarm_set"], ["area", "time"])


def test_a_grown_model_computes_the_same_and_its_copies_part_ways() -> None:
    torch.manual_seed(3)
    small = Decoder(TINY).eval()
    for p in small.parameters():
        if p.dim() == 1:
            p.data.uniform_(0.5, 1.5)
    shape = replace(TINY, hidden=64, layers=5, heads=8, kv_heads=4, ffn=96)
    large = grow(small, shape).eval()
    tokens = torch.randint(0, 400, (3, 40))
    assert torch.allclose(large.logits(large(tokens)), small.logits(small(tokens)), atol=1e-4)
    large.logits(large(tokens)).square().mean().backward()
    gradient = large.blocks[0].down.grad
    assert gradient is not None
    first, second = gradient.chunk(2)
    assert (first - second).norm() > 0.1 * first.norm()
    assert positions(4, 6) == [0, None, 1, 2, None, 3]
    assert positions(2, 2) == [0, 1]
    with pytest.raises(ValueError, match="twice its widths"):
        grow(small, replace(shape, ffn=97))


def test_muon_orthogonalises_the_gradient_of_each_map() -> None:
    torch.manual_seed(0)
    for shape in ((8, 24), (24, 8), (16, 16)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.3
        assert values.max() < 1.3
    fused = torch.nn.Parameter(torch.zeros(12, 8))
    optimizer = Muon([(fused, (8, 4))], lr=1.0, momentum=0.0)
    fused.grad = torch.cat((torch.randn(8, 8) * 1e-3, torch.randn(4, 8) * 1e3))
    optimizer.step()
    for part in fused.detach().split((8, 4)):  # sizes of gradients do not matter, each map has its own
        assert 0.5 < torch.linalg.svdvals(part).median() < 1.3


def test_matrices_of_the_blocks_go_to_muon_and_the_rest_to_adam() -> None:
    adam, muon = optimizers(Decoder(TINY), TrainConfig())
    kept = [p.dim() for group in adam.param_groups for p in group["params"]]
    assert sorted(kept) == [1] * (2 * TINY.layers + 1) + [2]
    assert sum(len(group["params"]) for group in muon.param_groups) == 4 * TINY.layers
    (only,) = optimizers(Decoder(TINY), replace(TrainConfig(), matrix_rate=0.0))
    assert isinstance(only, torch.optim.AdamW)


class FakeMixture:
    """Two examples for ever."""

    def __init__(self) -> None:
        self.rng = random.Random(0)

    def draw(self) -> Example:
        return self.rng.choice(EXAMPLES)


def write_data(folder: Path) -> Path:
    """Data sets of a few rows in the real layout."""
    home = folder / "ha_intents"
    (home / "sentences" / "en").mkdir(parents=True)
    (home / "fixtures.yaml").write_text('entities: [{name: "Bedroom Lamp", id: light.bedroom_lamp}]')
    common = "language: en\nlists: {}\nexpansion_rules: {}\nskip_words: [please]\n"
    (home / "sentences" / "en" / "_common.yaml").write_text(common)
    block = (
        "language: en\nintents: {HassTurnOff: {data: [{sentences: ['turn off {name}', 'off in {area}']}]}}\n"
    )
    (home / "sentences" / "en" / "light_HassTurnOff.yaml").write_text(block)
    words = "one two three four five six seven eight nine ten".split()  # noqa: SIM905
    hwu = [
        {
            "text": f"wake me at {w}",
            "intent": "alarm_set",
            "entities": [{"start": 11, "end": 11 + len(w), "value": w, "entity": "time"}],
        }
        for w in words
    ]
    clinc = [{"text": f"what is my balance {w}", "intent": "balance"} for w in words]
    files = {
        "hwu64/train": hwu,
        "clinc150/train": clinc,
        "clinc150/oos_train": [{"text": "how tall is my dog", "intent": "oos"}],
        "clinc150/oos_val": [{"text": "how old is my cat", "intent": "oos"}],
    }
    for name, rows in files.items():
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return folder


def test_a_later_token_changes_no_earlier_state() -> None:
    torch.manual_seed(0)
    model = Decoder(TINY).eval()
    tokens = torch.randint(0, 400, (2, 12))
    changed = tokens.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 400
    with torch.no_grad():
        assert torch.equal(model(tokens)[:, :7], model(changed)[:, :7])


def test_answers_alone_are_scored_and_padding_never(tokenizer: object) -> None:
    rows = encode(tokenizer, EXAMPLES)
    tokens, answers = pad(rows)
    for i, (ids, prompt) in enumerate(rows):
        assert tokens[i, : len(ids)].tolist() == ids
        assert answers[i].nonzero().flatten().tolist() == list(range(prompt - 1, len(ids) - 1))
    model = Decoder(replace(TINY, vocab_size=tokenizer.get_vocab_size())).eval()
    wider = torch.nn.functional.pad(tokens, (0, 5)), torch.nn.functional.pad(answers, (0, 5))
    with torch.no_grad():
        assert torch.isclose(loss_of(model, tokens, answers, 0.0), loss_of(model, *wider, 0.0))


def test_batches_hold_about_the_tokens_asked_for(tokenizer: object) -> None:
    source = batches(FakeMixture(), tokenizer, 200)
    assert all(next(source)[0].numel() <= 200 for _ in range(20))


def test_bfloat16_computes_the_same_loss_within_its_precision(tokenizer: object) -> None:
    tokens, answers = pad(encode(tokenizer, EXAMPLES))
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        model = Decoder(replace(TINY, vocab_size=tokenizer.get_vocab_size()), dtype)
        losses.append(float(loss_of(model, tokens, answers, 0.0).detach()))
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_a_few_steps_learn_two_examples_by_heart(tokenizer: object) -> None:
    torch.manual_seed(0)
    model = Decoder(replace(TINY, vocab_size=tokenizer.get_vocab_size()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    tokens, answers = pad(encode(tokenizer, EXAMPLES))
    for _ in range(60):
        loss_of(model, tokens, answers, 0.1).backward()
        optimizer.step()
        optimizer.zero_grad()
    found = score(model, tokenizer, EXAMPLES)
    assert (found["intent"], found["frame"]) == (1.0, 1.0)
    assert found["loss"] < 0.1


def test_a_run_trains_stops_resumes_and_exports_the_same_model(tmp_path: Path) -> None:
    pytest.importorskip(
        "transformers", reason="transformers is not installed: pip install 'edge-runtime[parity]'"
    )
    data, out = write_data(tmp_path / "data"), tmp_path / "run"
    config = TrainConfig(
        model=TINY,
        bpe_size=320,
        home_samples=50,
        validation_rows=2,
        batch_tokens=256,
        minutes=0.01,
        workers=1,
        dtype="float32",
    )
    start(config, data, out)
    first = torch.load(out / "state.pt", weights_only=True)
    start(replace(config, minutes=0.02), data, out)
    second = torch.load(out / "state.pt", weights_only=True)
    log = (out / "log.txt").read_text()
    assert f"resumed at step {first['step']}" in log
    assert second["step"] > first["step"] > 0
    assert "validation" in log
    export(out, tmp_path / "checkpoint")
    assert difference(out, tmp_path / "checkpoint") < 1e-4
    assert (tmp_path / "checkpoint" / "chat_template.jinja").is_file()


def test_the_schedule_warms_up_and_falls_to_its_final_share() -> None:
    from tools.train.loop import Run

    run = object.__new__(Run)
    run.config, run.step = TrainConfig(), 10_000
    c = run.config
    rates = [run.rate(i / 100) for i in range(101)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(c.final_share)
    run.step = 0
    assert math.isclose(run.rate(0), 1 / c.warmup_steps)
