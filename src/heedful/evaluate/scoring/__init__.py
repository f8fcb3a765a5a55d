"""Scores of stored samples: responses that some model gave some time ago, and the references to hold them against.

Sampling and scoring are apart, so a published file of outputs can be scored again. No model and no torch. ``samples`` reads a
file and scores it; the other modules hold the rules, one function per metric.
"""

from heedful.evaluate.scoring.cells import SampleColumns
from heedful.evaluate.scoring.samples import METRICS, RULES, GroupScores, SampleScores, Unscored, score_samples

__all__ = ["METRICS", "RULES", "GroupScores", "SampleColumns", "SampleScores", "Unscored", "score_samples"]
