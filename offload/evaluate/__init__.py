"""How good decisions and confidences are: figures with intervals, over plain arrays.

Knows: AUROC, bootstrap intervals, calibration errors, deferral curves (definitions in each docstring).
Does not know: models, files of the public sets, the command line.
"""

from offload.evaluate.metrics import Metric, auroc, fpr_at_tpr, mean_metric, signal_metric
from offload.evaluate.routing import Deferral, calibration_metrics, oracle_gain, routing_metrics

__all__ = [
    "Deferral",
    "Metric",
    "auroc",
    "calibration_metrics",
    "fpr_at_tpr",
    "mean_metric",
    "oracle_gain",
    "routing_metrics",
    "signal_metric",
]
