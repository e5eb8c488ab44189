"""The tokenizer: byte-level BPE over words, single digits and single spaces, with the frame's brackets as
tokens.

A space is a token of its own, so that a word has the same token ids in the utterance and in the frame and
copying it is copying ids. Byte-level, so any text encodes and decodes unchanged. Intents, slot keys and the
JSON around them are added tokens (ordinary, not special), which makes a frame about ten tokens long; their
text is what they print.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
TAG_AUTO, TAG_HOME, TAG_HWU, TAG_TOPIC, TAG_PROBLEM = (
    "<|auto|>",
    "<|ha|>",
    "<|hwu64|>",
    "<|topic|>",
    "<|problem|>",
)
AREA, SAY, ANSWER = "<|area|>", "<|say|>", "<|answer|>"
SPECIAL = (
    PAD, BOS, EOS, TAG_AUTO, TAG_HOME, TAG_HWU, TAG_TOPIC, TAG_PROBLEM, AREA, SAY, ANSWER,
    *(f"<|reserved{i}|>" for i in range(5)),
)  # fmt: skip
BRACKETS = (
    '{"intent":"',
    '","slots":{',
    '","slots":{}}',
    'none","slots":{}}',
    '",',
    '"}}',
    "}}",
    '["',
    '"],',
    '"]}}',
)

# Letters in runs, digits one by one, spaces one by one, other marks one by one.
WORDS = r"\p{L}+|\p{N}| |[^\s\p{L}\p{N}]|\s"


def train_tokenizer(
    texts: Iterable[str], size: int, intents: Iterable[str], slots: Iterable[str]
) -> Tokenizer:
    """BPE of `size` entries (bytes and special tokens included) on `texts`, plus the frame's tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    added = [*BRACKETS, *sorted(set(intents))]
    for slot in sorted(set(slots)):
        added += [f'"{slot}":"', f'"{slot}":']
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in added])
    return tokenizer
