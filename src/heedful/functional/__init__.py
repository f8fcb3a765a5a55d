"""The formulas: tensors in, tensors out. No files, no configuration, no logging, no state.

In every mask, True means "this entry counts". An entry whose mask is False, even NaN or infinity, changes neither a value
nor a gradient. Sums and softmax statistics are computed in float32 or float64, whatever the inputs' type.
"""

from heedful.functional.advantages import generalized_advantage_estimation, per_token_kl_penalty, rewards_with_kl
from heedful.functional.logprobs import chunked_token_logprobs, chunked_token_logprobs_and_entropy, token_logprobs
from heedful.functional.losses import (
    PolicyStatistics,
    RankingStatistics,
    ValueStatistics,
    clipped_policy_loss,
    clipped_value_loss,
    implicit_rewards,
    language_model_loss,
    ranking_loss,
)
from heedful.functional.masked import masked_mean, masked_sum, masked_variance, masked_whiten

__all__ = [
    "PolicyStatistics",
    "RankingStatistics",
    "ValueStatistics",
    "chunked_token_logprobs",
    "chunked_token_logprobs_and_entropy",
    "clipped_policy_loss",
    "clipped_value_loss",
    "generalized_advantage_estimation",
    "implicit_rewards",
    "language_model_loss",
    "masked_mean",
    "masked_sum",
    "masked_variance",
    "masked_whiten",
    "per_token_kl_penalty",
    "ranking_loss",
    "rewards_with_kl",
    "token_logprobs",
]
