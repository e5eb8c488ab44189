"""Everything that a training run depends on, in one frozen dataclass."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the Llama-architecture decoder."""

    vocab_size: int = 0  # set by the tokenizer
    hidden: int = 256
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    ffn: int = 768
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    context: int = 512
    dropout: float = 0.1


@dataclass(frozen=True)
class TrainConfig:
    """One run. The defaults are the recipe of the shipped `pocket` model; see also `RECIPES`."""

    seed: int = 20
    model: ModelConfig = field(default_factory=ModelConfig)
    bpe_size: int = 3200
    home_samples: int = 60_000
    validation_rows: int = 600
    # Shares of a batch by kind of row; see data.Mixture.
    shares: dict[str, float] = field(
        default_factory=lambda: {
            "hwu": 0.33,
            "hwu_auto": 0.09,
            "home": 0.10,
            "home_auto": 0.10,
            "topic": 0.08,
            "outside": 0.08,
            "problem": 0.17,
            "problem_auto": 0.05,
        }
    )
    # Shares of the word problems by number of steps, 1 to 6.
    steps: tuple[float, ...] = (0.2, 0.2, 0.18, 0.16, 0.14, 0.12)
    batch_tokens: int = 5120
    learning_rate: float = 2e-3  # of embeddings and norms, by Adam
    matrix_rate: float = 0.02  # of the matrices, by Muon; 0 leaves them to Adam
    final_share: float = 0.02  # learning rate at the end, as a share of the peak
    decay_share: float = 0.5  # of the time, at its end, over which the rate falls
    warmup_steps: int = 150
    weight_decay: float = 0.1
    beta2: float = 0.98
    clip: float = 1.0
    prompt_loss: float = 0.1  # weight of the next-token loss on the utterance
    ema: float = 0.998
    minutes: float = 45.0  # the schedule runs over time, so that a shared machine still ends where it should
    dtype: str = "bfloat16"
    workers: int = 2  # one-threaded processes that share each batch
    grow_from: str = ""  # folder beside this run's whose model this one begins as
    validate_every: int = 400
    checkpoint_seconds: float = 180.0

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


POCKET = TrainConfig()
RECIPES = {
    "pocket": POCKET,
    # Begins as the trained pocket, grown (grow.py); so the peak rates are lower.
    "pocket-cloud": replace(
        POCKET,
        model=ModelConfig(hidden=512, layers=6, heads=16, kv_heads=8, ffn=1536),
        grow_from="pocket",
        learning_rate=1.4e-3,
        matrix_rate=0.012,
        steps=(0.12, 0.14, 0.17, 0.19, 0.19, 0.19),
        minutes=66.0,
        decay_share=0.6,
        validate_every=300,
    ),
}
