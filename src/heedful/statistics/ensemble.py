"""How much the reward models of an ensemble disagree about a prompt's outputs, to choose which prompts labelers should rank."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from heedful.errors import DataError


def disagreement(rewards: npt.ArrayLike) -> float:
    """Variance between members of the probability that one output is preferred to another, averaged over pairs of outputs.

    ``rewards``: (members, outputs). A member's probability is the sigmoid of the difference between its two rewards, as in the
    reward model's loss (SPEC 3.3), so it does not matter if a member adds a constant to all its rewards. 0: all members agree.
    0.25, the largest value: half of the members are sure of one output, half of the other. With a single output it is 0.
    Raises DataError for fewer than two members.
    """
    given = np.asarray(rewards, dtype=np.float64)
    if given.ndim != 2 or len(given) < 2:
        raise DataError(
            "these are not rewards of an ensemble", expected="(members, outputs), at least two members", got=str(given.shape)
        )
    first, second = np.triu_indices(given.shape[1], k=1)
    if not len(first):
        return 0.0
    chances = 0.5 * (1 + np.tanh((given[:, first] - given[:, second]) / 2))
    return float(chances.var(axis=0).mean())
