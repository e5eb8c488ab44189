"""The tokenizer of a package: special tokens, and errors that name the file."""

import json
from pathlib import Path

import pytest
from support import byte_tokenizer

from edge_runtime.errors import TokenizerError
from edge_runtime.tokenizer import Tokenizer


def make(**fields: object) -> Tokenizer:
    return Tokenizer(byte_tokenizer().to_str(), **{"eos_ids": (0,), "bos_id": 1, "pad_id": 2, **fields})  # type: ignore[arg-type]


def test_special_tokens_in_the_text_become_their_ids() -> None:
    tokenizer = make()
    assert tokenizer.encode("<|start|>hi<|end|>")[0] == 1
    assert tokenizer.token(0) == "<|end|>"
    assert tokenizer.id_of("<|pad|>") == 2
    assert tokenizer.token(None) is None
    assert tokenizer.id_of("<|nothing|>") is None
    assert {0, 1, 2} <= tokenizer.special_ids


def test_settings_in_the_file_never_cut_or_pad_a_prompt() -> None:
    inner = byte_tokenizer()
    inner.enable_truncation(4)
    inner.enable_padding(length=64)
    tokenizer = Tokenizer(inner.to_str())
    assert tokenizer.encode("a longer text than that") == make().encode("a longer text than that")
    assert json.loads(tokenizer.serialized)["truncation"] is None


def test_the_head_may_be_larger_than_the_vocabulary() -> None:
    tokenizer = make(vocab_size=1024)
    assert tokenizer.vocab_size == 1024
    assert tokenizer.decode([1000]) == ""


def test_a_missing_file_says_what_a_package_needs(tmp_path: Path) -> None:
    with pytest.raises(
        TokenizerError, match=r"tokenizer\.json is missing: a model package needs the checkpoint's"
    ):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("content", [b"{}", b"not json", b"\xff\xfe"])
def test_an_unreadable_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_generation_ids_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(TokenizerError, match="the eos token id 9999 is not in the vocabulary"):
        make(eos_ids=(9999,))
