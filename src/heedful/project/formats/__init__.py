"""The formats that ``import_file`` reads: for each, a function from one row to the records in it, and a sample row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from heedful.project.formats import (
    heedful_rows,
    instruction_rows,
    oasst_rows,
    preference_rows,
    public_sets,
    ranked_rows,
    task_rows,
)
from heedful.project.formats.rows import Draft


@dataclass(frozen=True, slots=True)
class Format:
    """``read(row, labeler)`` raises ``BadRow`` or ``SkippedRow``; ``labeler`` is used if the row names none."""

    read: Callable[[Any, str | None], Draft]
    sample: str
    group: Callable[[Any], str | None] | None = None
    """The name of the group that a row (an object) belongs to, or None if it stands alone. ``read`` gets a group as a list."""


FORMATS: Mapping[str, Format] = {
    "oasst": Format(oasst_rows.read_tree, oasst_rows.SAMPLE, oasst_rows.tree_group),
    "ultrafeedback": Format(public_sets.read_ultrafeedback, public_sets.ULTRAFEEDBACK_SAMPLE),
    "nectar": Format(public_sets.read_nectar, public_sets.NECTAR_SAMPLE),
    "helpsteer": Format(public_sets.read_helpsteer, public_sets.HELPSTEER_SAMPLE, public_sets.helpsteer_group),
    "shp": Format(public_sets.read_shp, public_sets.SHP_SAMPLE),
    "pku-saferlhf": Format(public_sets.read_pku, public_sets.PKU_SAMPLE),
    "summarize-from-feedback": Format(public_sets.read_summaries, public_sets.SUMMARIES_SAMPLE),
    "hh-rlhf": Format(preference_rows.read_dialogue_pair, preference_rows.HH_SAMPLE),
    "trl-preference": Format(preference_rows.read_trl_pair, preference_rows.TRL_SAMPLE),
    "tasks": Format(task_rows.read_task, task_rows.SAMPLE),
    "alpaca": Format(instruction_rows.read_instruction, instruction_rows.ALPACA_SAMPLE),
    "dolly": Format(instruction_rows.read_dolly, instruction_rows.DOLLY_SAMPLE),
    "messages": Format(instruction_rows.read_messages, instruction_rows.MESSAGES_SAMPLE),
    "responses": Format(ranked_rows.read_responses, ranked_rows.SAMPLE),
    "heedful": Format(heedful_rows.read_record, heedful_rows.SAMPLE),
}
"""By name. The narrower formats come first: an unknown file is tried in this order."""
