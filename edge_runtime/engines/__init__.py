"""Inference engines behind one Protocol.

Knows: how token ids become next-token scores, and where their KV state lives. Does not know: text, chat
templates, sampling, or when to stop.
"""

from edge_runtime.engines.base import Engine, EngineInfo, Scores, SequenceState

__all__ = ["Engine", "EngineInfo", "Scores", "SequenceState"]
