"""Word problems: a seeded generator, whose sentence families differ between training and test, and marking.

Knows: stories of one to six arithmetic steps with written solutions. Does not know: models, files, metrics.
"""

from edge_runtime.evaluation.problems.generate import STEPS, Problem, generate
from edge_runtime.evaluation.problems.templates import SPLITS, Split, load_templates

__all__ = ["SPLITS", "STEPS", "Problem", "Split", "generate", "load_templates"]
