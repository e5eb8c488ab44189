"""How good a model is at what it is for: frames from utterances, word problems, and knowing what is not its
business.

Knows: the pocket format (`docs/pocket-format.md`), rows of the public sets, metrics with intervals. Does not
know: engines beyond "messages in, text and evidence out"; training; data beyond `EDGE_DATA_DIR`.
"""

from edge_runtime.evaluation.frames import Frame, messages, parse_frame, same_frame
from edge_runtime.evaluation.marked import Asker, Case, Marked, ask, asker
from edge_runtime.evaluation.rows import FrameCase, read
from edge_runtime.evaluation.suites import FRAME_TOKENS, MarkedFrame, summarise_frames, summarise_oos
from offload.evaluate.metrics import Metric, auroc, fpr_at_tpr, mean_metric, signal_metric

__all__ = [
    "FRAME_TOKENS",
    "Asker",
    "Case",
    "Frame",
    "FrameCase",
    "Marked",
    "MarkedFrame",
    "Metric",
    "ask",
    "asker",
    "auroc",
    "fpr_at_tpr",
    "mean_metric",
    "messages",
    "parse_frame",
    "read",
    "same_frame",
    "signal_metric",
    "summarise_frames",
    "summarise_oos",
]
