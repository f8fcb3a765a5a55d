"""The formats that ``import_file`` reads: for each, a function from one row to the records in it, and a sample row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from heedful.store.formats import instructions, oasst, own, preferences
from heedful.store.formats.rows import Draft


@dataclass(frozen=True, slots=True)
class Format:
    """``read(row, labeler)`` raises ``BadRow`` or ``SkippedRow``; ``labeler`` is who is named where the row names nobody."""

    read: Callable[[Any, str | None], Draft]
    sample: str


FORMATS: Mapping[str, Format] = {
    "oasst": Format(oasst.read_tree, oasst.SAMPLE),
    "hh-rlhf": Format(preferences.read_dialogue_pair, preferences.HH_SAMPLE),
    "trl-preference": Format(preferences.read_trl_pair, preferences.TRL_SAMPLE),
    "alpaca": Format(instructions.read_instruction, instructions.ALPACA_SAMPLE),
    "messages": Format(instructions.read_messages, instructions.MESSAGES_SAMPLE),
    "heedful": Format(own.read_record, own.SAMPLE),
}
"""By name; the narrower formats stand first, as the order in which an unknown file is tried."""
