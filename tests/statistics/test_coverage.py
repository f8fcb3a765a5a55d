"""What intervals promise: in 2,000 simulated studies the two-way interval holds the true win rate in about 95 of 100."""

from __future__ import annotations

import numpy as np
import pytest
from tests.statistics.studies import DESIGNS, Design, crossing, outcomes, true_win_rate

from heedful.statistics import two_way_win_rate

NUM_STUDIES = 2000


# Three of them in every run, the others with the long tests.
@pytest.mark.parametrize(
    "design",
    [
        pytest.param(d, id=d.name, marks=[pytest.mark.long] if d.name in ("12, unbalanced", "40 labelers") else [])
        for d in DESIGNS
    ],
)
def test_two_way_covers_and_naive_does_not(design: Design) -> None:
    generator = np.random.default_rng(0)
    prompts, labelers = crossing(design, generator)
    truth = true_win_rate(design)
    held = np.zeros(3)
    for study in outcomes(design, prompts, labelers, NUM_STUDIES, generator):
        found = two_way_win_rate(study, prompts, labelers)
        held += [e.low <= truth <= e.high for e in (found.two_way, found.by_prompt, found.naive)]
    two_way, by_prompt, naive = held / NUM_STUDIES
    assert two_way == pytest.approx(0.95, abs=0.015)
    assert by_prompt < 0.9
    assert naive < 0.85
