"""The paper's own numbers, shown beside ours in figures and tables. Ouyang et al. 2022, restated in SPEC's headline results.

All numbers come from the paper's text; none is read off a figure. They were measured on 175B policies and 6B reward models,
judged by people. So they show the direction of an effect and roughly its strength, not what a smaller model in another world
should score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from heedful.evaluate.lineup import BASE, PPO_PTX, PROMPTED_BASE, TASK_MIXTURE


@dataclass(frozen=True, slots=True)
class PaperValue:
    """A share with the paper's own ± (None if it gives none) and the section that states it."""

    value: float
    plus_minus: float | None
    section: str

    @property
    def low(self) -> float:
        return self.value - (self.plus_minus or 0.0)

    @property
    def high(self) -> float:
        return self.value + (self.plus_minus or 0.0)


WIN_RATE_AGAINST_SFT: Mapping[str, PaperValue] = {
    PPO_PTX.name: PaperValue(0.734, 0.02, "4.1"),
    TASK_MIXTURE.name: PaperValue(0.298, 0.02, "4.1"),
}
"""InstructGPT (PPO-ptx) and GPT-3 tuned on FLAN against the 175B SFT baseline; T0's was 26.8 ± 2 %."""

HEAD_TO_HEAD: Mapping[tuple[str, str], PaperValue] = {
    (PPO_PTX.name, BASE.name): PaperValue(0.85, 0.03, "abstract, 4.1"),
    (PPO_PTX.name, PROMPTED_BASE.name): PaperValue(0.71, 0.04, "abstract, 4.1"),
    (PPO_PTX.name, TASK_MIXTURE.name): PaperValue(0.78, 0.04, "1, 4.1"),
}
"""175B InstructGPT against 175B GPT-3, without and with a few-shot prefix, and against GPT-3 tuned on FLAN (T0: 79 ± 4 %)."""

AGREEMENT: Mapping[str, PaperValue] = {
    "training": PaperValue(0.726, 0.015, "3.4"),
    "held_out": PaperValue(0.773, 0.013, "3.4"),
}
"""How often labelers of a group agree with each other."""

REWARD_MODEL_ACCURACY: Mapping[str, PaperValue] = {
    "training": PaperValue(0.724, 0.004, "4.1, E.2"),
    "held_out": PaperValue(0.696, 0.009, "4.1, E.2"),
}
"""Cross-validated reward models on the labelers they were trained on and on the group left out."""

HALLUCINATION: Mapping[str, PaperValue] = {
    PPO_PTX.name: PaperValue(0.21, None, "1, 4.1"),
    BASE.name: PaperValue(0.41, None, "1, 4.1"),
}
"""Share of responses with invented facts on closed-domain tasks."""
