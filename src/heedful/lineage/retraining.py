"""Which runs must be repeated because a record was erased, and how to tell the next `heedful align`."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from heedful.lineage.run_graph import FORGOTTEN, RunNode
from heedful.project.runs import stage_state, write_state

ASKING = ("data", "demonstrate", "collect", "prompts_")
"""Name prefixes of stages that only choose prompts or ask labelers. Their answers about other prompts remain valid."""
_OF_OLDER_VERSIONS = ("choose_sft", "choose_prefix", "evaluate")


def to_do_again(runs: Mapping[str, RunNode], names: Collection[str]) -> list[str]:
    """Those of these runs that `heedful align` trains, chooses or evaluates, in the order of the runs."""
    return [name for name, run in runs.items() if name in names and run.done and _of_align(run)]


def mark_to_retrain(runs: Mapping[str, RunNode], names: Collection[str]) -> None:
    """Let the next `heedful align` repeat these runs in new folders; the old folders stay. Raises StorageError."""
    for name in names:
        state = stage_state(runs[name].folder)
        if FORGOTTEN not in state:
            state[FORGOTTEN], state["fingerprint"] = state.get("fingerprint", ""), ""
            write_state(runs[name].folder, state)
        for ended in runs[name].folder.parent.glob("round-*.json"):
            if f'"{name}"' in ended.read_text(encoding="utf-8"):  # this round is no longer over
                ended.unlink()


def _of_align(run: RunNode) -> bool:
    if run.stage.startswith(ASKING) or (run.use and run.use.asks in ("demonstrations", "rankings")):
        return False
    return run.use is not None or run.has_model or run.stage in _OF_OLDER_VERSIONS
