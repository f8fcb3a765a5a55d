"""Scores stored samples: responses that a model gave earlier, compared with references.

Sampling and scoring are separate, so a published file of outputs can be scored again. It needs no model and no torch.
``samples`` reads a file and scores it; the other modules hold the rules, one function per metric.
"""

from heedful.evaluate.scoring.cells import SampleColumns
from heedful.evaluate.scoring.samples import METRICS, RULES, GroupScores, SampleScores, Unscored, score_samples

__all__ = ["METRICS", "RULES", "GroupScores", "SampleColumns", "SampleScores", "Unscored", "score_samples"]
