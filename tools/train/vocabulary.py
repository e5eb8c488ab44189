"""The tokenizer: byte-level BPE over words, single digits and single spaces, with the frame's brackets as
tokens.

A space is a token of its own, so that a word has the same token ids in the utterance and in the frame and
copying it is copying ids. Frequent words that hardly ever begin a copied value ("the", "has", "how") are the
exception: they take the space before them into one token, which shortens an utterance by a quarter.
Byte-level, so any text encodes and decodes unchanged. Intents, slot keys and the JSON around them are added
tokens (ordinary, not special), which makes a frame about ten tokens long; their text is what they print.
"""

from __future__ import annotations

import re
from collections import Counter
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

# The end of a worked solution is announced by one token, which is also where its decisive span begins.
ANSWER_LINE = "\nanswer: "

# Letters in runs, digits one by one, spaces one by one, other marks one by one.
WORDS = r"\p{L}+|\p{N}| |[^\s\p{L}\p{N}]|\s"


def joined_words(
    texts: Iterable[str], values: Iterable[str], limit: int = 600, rare: int = 40, first: float = 0.02
) -> list[str]:
    """Words that follow a space at least `rare` times in `texts` and seldom begin one of `values`.

    `first` is the largest share of a word's occurrences that may begin a value: there the word stands after
    a quote, without its space, and would be another token than in the utterance.
    """
    seen = Counter(word for text in texts for word in re.findall(r"(?<= )[a-z]+(?![^\W\d_])", text))
    begins = Counter(found[0] for value in values if (found := re.match(r"[a-z]+", value)))
    fitting = [(n, w) for w, n in seen.items() if n >= rare and begins[w] <= first * n]
    return [word for _, word in sorted(fitting, key=lambda pair: (-pair[0], pair[1]))[:limit]]


def train_tokenizer(
    texts: Iterable[str], size: int, intents: Iterable[str], slots: Iterable[str], joined: Iterable[str] = ()
) -> Tokenizer:
    """BPE of `size` entries (bytes and special tokens included) on `texts`, plus the frame's tokens.

    `joined` words make one piece with the space before them.
    """
    longest_first = sorted(set(joined), key=lambda word: (-len(word), word))
    together = rf" (?:{'|'.join(longest_first)})(?!\p{{L}})|" if longest_first else ""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(together + WORDS), behavior="isolated"),
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
    added = [*BRACKETS, ANSWER_LINE, *sorted(set(intents))]
    for slot in sorted(set(slots)):
        added += [f'"{slot}":"', f'"{slot}":']
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in added])
    return tokenizer
