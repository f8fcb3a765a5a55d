"""Statistics of human judgements: agreement, win rates, reward-model accuracy and their intervals. They need only numpy.

Comparisons of one prompt are not independent of each other, so intervals are over prompts: see ``intervals``.
"""

from heedful.statistics.agreement import agreement_with, group_agreement, labeler_agreement, leave_one_out_agreement
from heedful.statistics.alpha import krippendorff_alpha, ranking_alpha, rating_alpha
from heedful.statistics.bag_of_words import BagOfWords, fit_bag_of_words
from heedful.statistics.best_of_n import best_of_n, best_of_n_kl
from heedful.statistics.bradley_terry import BradleyTerry, bradley_terry, relative_difference, style_difference
from heedful.statistics.carelessness import (
    CarelessnessRow,
    CarelessnessThresholds,
    Submission,
    binomial_tail,
    carelessness,
    chance_of_run,
)
from heedful.statistics.ensemble import disagreement
from heedful.statistics.gold import gold_flag_scores, gold_overall_scores, gold_ranking_scores
from heedful.statistics.intervals import (
    Estimate,
    bootstrap_mean,
    bootstrap_ratio,
    check_confidence,
    percent,
    proportion,
    wilson,
)
from heedful.statistics.kappa import FlagAgreement, flag_agreement, fleiss_kappa, labeler_kappas
from heedful.statistics.power import PlannedStudy, VarianceShares, prompts_needed, study_power, variance_shares
from heedful.statistics.rank_correlation import kendall_tau_b, labeler_tau_b
from heedful.statistics.reward_accuracy import (
    Calibration,
    CalibrationBin,
    LengthRules,
    calibration,
    length_rules,
    reward_accuracy,
    reward_accuracy_by_k,
    reward_accuracy_by_labeler,
    reward_agreement,
)
from heedful.statistics.reward_breakdown import (
    MarginAccuracy,
    RankedPair,
    accuracy_where_longer_loses,
    pair_accuracy,
    pairs_by_margin,
    ranked_pairs,
    reward_accuracy_by_margin,
    reward_accuracy_by_use_case,
    two_way_accuracy,
    two_way_lead,
    win_shares,
)
from heedful.statistics.screening import (
    ScreeningCutoffs,
    ScreeningRecord,
    ScreeningRow,
    demonstration_score,
    screening_table,
    sensitive_counts,
    topic_coverage,
)
from heedful.statistics.two_way import (
    ClusteredEstimate,
    two_way_difference,
    two_way_mean,
    two_way_win_rate,
)
from heedful.statistics.winrates import paired_difference, win_rate

__all__ = [
    "BagOfWords",
    "BradleyTerry",
    "Calibration",
    "CalibrationBin",
    "CarelessnessRow",
    "CarelessnessThresholds",
    "ClusteredEstimate",
    "Estimate",
    "FlagAgreement",
    "LengthRules",
    "MarginAccuracy",
    "PlannedStudy",
    "RankedPair",
    "ScreeningCutoffs",
    "ScreeningRecord",
    "ScreeningRow",
    "Submission",
    "VarianceShares",
    "accuracy_where_longer_loses",
    "agreement_with",
    "best_of_n",
    "best_of_n_kl",
    "binomial_tail",
    "bootstrap_mean",
    "bootstrap_ratio",
    "bradley_terry",
    "calibration",
    "carelessness",
    "chance_of_run",
    "check_confidence",
    "demonstration_score",
    "disagreement",
    "fit_bag_of_words",
    "flag_agreement",
    "fleiss_kappa",
    "gold_flag_scores",
    "gold_overall_scores",
    "gold_ranking_scores",
    "group_agreement",
    "kendall_tau_b",
    "krippendorff_alpha",
    "labeler_agreement",
    "labeler_kappas",
    "labeler_tau_b",
    "leave_one_out_agreement",
    "length_rules",
    "pair_accuracy",
    "paired_difference",
    "pairs_by_margin",
    "percent",
    "prompts_needed",
    "proportion",
    "ranked_pairs",
    "ranking_alpha",
    "rating_alpha",
    "relative_difference",
    "reward_accuracy",
    "reward_accuracy_by_k",
    "reward_accuracy_by_labeler",
    "reward_accuracy_by_margin",
    "reward_accuracy_by_use_case",
    "reward_agreement",
    "screening_table",
    "sensitive_counts",
    "study_power",
    "style_difference",
    "topic_coverage",
    "two_way_accuracy",
    "two_way_difference",
    "two_way_lead",
    "two_way_mean",
    "two_way_win_rate",
    "variance_shares",
    "wilson",
    "win_rate",
    "win_shares",
]
