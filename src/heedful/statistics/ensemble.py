"""How much the reward models of an ensemble disagree about the outputs of one prompt: what is worth asking labelers about."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from heedful.errors import DataError


def disagreement(rewards: npt.ArrayLike) -> float:
    """The mean, over all pairs of outputs, of the variance between members of the chance that the first output is preferred.

    ``rewards``: (members, outputs). A member's chance is the sigmoid of the difference of its two rewards, as in the reward
    model's loss (SPEC 3.3), so a constant that one member adds to all rewards changes nothing. 0: all agree on every chance.
    0.25 at most: half of the members are sure of one output, half of the other. One output alone: 0.
    """
    given = np.asarray(rewards, dtype=np.float64)
    if given.ndim != 2 or len(given) < 2:
        raise DataError(
            "this is no ensemble's reward", expected="(members, outputs), at least two members", got=str(given.shape)
        )
    first, second = np.triu_indices(given.shape[1], k=1)
    if not len(first):
        return 0.0
    chances = 0.5 * (1 + np.tanh((given[:, first] - given[:, second]) / 2))
    return float(chances.var(axis=0).mean())
