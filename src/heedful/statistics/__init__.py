"""Statistics of human judgements: agreement, win rates, reward-model accuracy, their intervals. numpy only.

Comparisons of one prompt are not independent of each other, so intervals are over prompts: see ``intervals``.
"""

from heedful.statistics.agreement import group_agreement, labeler_agreement, leave_one_out_agreement
from heedful.statistics.intervals import Estimate, bootstrap_mean, bootstrap_ratio, proportion, wilson
from heedful.statistics.reward_accuracy import (
    Calibration,
    CalibrationBin,
    LengthRules,
    calibration,
    length_rules,
    reward_accuracy,
    reward_accuracy_by_k,
    reward_accuracy_by_labeler,
)
from heedful.statistics.winrates import paired_difference, win_rate

__all__ = [
    "Calibration",
    "CalibrationBin",
    "Estimate",
    "LengthRules",
    "bootstrap_mean",
    "bootstrap_ratio",
    "calibration",
    "group_agreement",
    "labeler_agreement",
    "leave_one_out_agreement",
    "length_rules",
    "paired_difference",
    "proportion",
    "reward_accuracy",
    "reward_accuracy_by_k",
    "reward_accuracy_by_labeler",
    "wilson",
    "win_rate",
]
