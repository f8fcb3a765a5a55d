"""Simulated studies: who judges which prompt, and outcomes with effects of both. bench/coverage.py uses them too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """``judgements`` labelers per prompt; with ``unbalanced``, some labelers and prompts get far more than others."""

    name: str
    num_prompts: int
    num_labelers: int
    judgements: int
    prompt_effect: float
    """Standard deviation on the scale of a logit, as the next."""
    labeler_effect: float
    unbalanced: bool = False


DESIGNS = (
    Design(name="12 labelers", num_prompts=200, num_labelers=12, judgements=3, prompt_effect=1.0, labeler_effect=0.5),
    Design(
        name="12, unbalanced",
        num_prompts=200,
        num_labelers=12,
        judgements=3,
        prompt_effect=1.0,
        labeler_effect=0.7,
        unbalanced=True,
    ),
    Design(name="5 labelers", num_prompts=100, num_labelers=5, judgements=2, prompt_effect=1.0, labeler_effect=0.7),
    Design(name="40 labelers", num_prompts=300, num_labelers=40, judgements=3, prompt_effect=1.0, labeler_effect=0.6),
    Design(
        name="40, unbalanced",
        num_prompts=300,
        num_labelers=40,
        judgements=3,
        prompt_effect=1.0,
        labeler_effect=0.6,
        unbalanced=True,
    ),
)


def crossing(design: Design, generator: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Prompt and labeler of each comparison; no labeler judges a prompt twice."""
    weights = 1 / (1 + np.arange(design.num_labelers)) ** 0.7 if design.unbalanced else np.ones(design.num_labelers)
    prompts: list[int] = []
    labelers: list[int] = []
    for prompt in range(design.num_prompts):
        wanted = 1 + generator.geometric(1 / design.judgements) if design.unbalanced else design.judgements
        size = min(int(wanted), design.num_labelers)
        labelers += generator.choice(design.num_labelers, size=size, replace=False, p=weights / weights.sum()).tolist()
        prompts += [prompt] * size
    return np.array(prompts), np.array(labelers)


def outcomes(
    design: Design, prompts: IntArray, labelers: IntArray, num_studies: int, generator: np.random.Generator, mean: float = 0.4
) -> FloatArray:
    """Outcomes 1, 0.5, 0 of many studies with the same crossing, (studies, comparisons): a latent logit, ties near 0."""
    of_prompt = generator.normal(scale=design.prompt_effect, size=(num_studies, design.num_prompts))
    of_labeler = generator.normal(scale=design.labeler_effect, size=(num_studies, design.num_labelers))
    latent = mean + of_prompt[:, prompts] + of_labeler[:, labelers] + generator.logistic(size=(num_studies, len(prompts)))
    return as_outcomes(latent)


def as_outcomes(latent: FloatArray, tie: float = 0.3) -> FloatArray:
    return np.where(latent > tie, 1.0, np.where(latent < -tie, 0.0, 0.5))


def true_win_rate(design: Design, mean: float = 0.4, tie: float = 0.3) -> float:
    """The expected outcome over all prompts and labelers, by Gauss-Hermite quadrature over the sum of the two effects."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    logit = mean + np.hypot(design.prompt_effect, design.labeler_effect) * nodes
    win = 1 / (1 + np.exp(-(logit - tie)))
    lose = 1 / (1 + np.exp(logit + tie))
    return float((weights * (win + (1 - win - lose) / 2)).sum() / weights.sum())
