"""Queries and answers as bytes and back: UTF-8 JSON with the fields of the dataclasses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from offload.queue.errors import QueueError
from offload.types import Answer, Confidence, Decision, Evidence, Message, Query

__all__ = ["decode_answer", "decode_query", "encode_answer", "encode_query"]


def encode_query(query: Query) -> bytes:
    """A query as bytes; equal queries give equal bytes.

    Raises:
        QueueError: `params` hold something that JSON cannot.
    """
    data = {**asdict(query), "params": dict(query.params)}
    try:
        return _dump(data)
    except (TypeError, ValueError) as error:
        raise QueueError(
            f"the query '{query.id}' cannot be stored: its params are not JSON: {error}"
        ) from error


def decode_query(content: bytes) -> Query:
    """The inverse of `encode_query`. Fields that a newer release added are left out."""
    data = _known(json.loads(content), Query)
    messages = tuple(Message(**_known(message, Message)) for message in data.pop("messages"))
    return Query(**{**data, "messages": messages, "labels": tuple(data.get("labels", ()))})


def encode_answer(answer: Answer) -> bytes:
    """An answer as bytes."""
    evidence = None if answer.evidence is None else answer.evidence.to_dict()
    return _dump({**answer.to_dict(), "evidence": evidence})


def decode_answer(content: bytes) -> Answer:
    """The inverse of `encode_answer`. Fields that a newer release added are left out."""
    data = _known(json.loads(content), Answer)
    if data.get("confidence") is not None:
        data["confidence"] = Confidence(**_known(data["confidence"], Confidence))
    if data.get("decision") is not None:
        data["decision"] = Decision(**_known(data["decision"], Decision))
    if data.get("evidence") is not None:
        data["evidence"] = Evidence.from_dict(data["evidence"])
    return Answer(**data)


def _known(data: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    names = {f.name for f in fields(kind)}
    return {name: value for name, value in data.items() if name in names}


def _dump(data: Mapping[str, Any]) -> bytes:
    return json.dumps(
        data, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
    ).encode()
