"""How good decisions and confidences are: figures with intervals, over plain arrays.

Knows: AUROC, bootstrap intervals and the like (definitions in each docstring). Does not know: models, files of
the public sets, the command line.
"""

from offload.evaluate.metrics import Metric, auroc, fpr_at_tpr, mean_metric, signal_metric

__all__ = ["Metric", "auroc", "fpr_at_tpr", "mean_metric", "signal_metric"]
