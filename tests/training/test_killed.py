"""Killed by SIGKILL at random moments, a run ends with the same bits as one that was never stopped."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tests.training import killed

KILLS = 7


def attempt(processes: Any, loop: str, folder: Path, kill_at: int | None) -> int:
    process = processes.Process(target=killed.run, args=(loop, str(folder), kill_at))
    process.start()
    process.join(120)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def result(folder: Path) -> dict[str, bytes]:
    """All that a run leaves, byte for byte."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def newest_checkpoint(folder: Path) -> Path | None:
    found = sorted((folder / "checkpoints").glob("step-*"), key=lambda path: int(path.name[5:]))
    return found[-1] / "state.pt" if len(found) > 1 else None


@pytest.mark.parametrize("loop", killed.LOOPS)
def test_killed_at_random_moments_it_ends_with_the_same_bits(loop: str, processes: Any, tmp_path: Path) -> None:
    """Between steps, in the middle of one, while a checkpoint or a model is written, renamed or removed, while logs are cut.

    Known trap: a resume that loses the optimiser, the place in the data or the random state.
    """
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert attempt(processes, loop, whole, None) == 0
    moments = int(Path(f"{whole}.moments").read_text())
    assert moments > 100
    chance = random.Random(f"kills of {loop}")
    kills = damaged = 0
    while exit_code := attempt(processes, loop, run, chance.randint(1, moments // 4) if kills < KILLS else None):
        assert exit_code == -signal.SIGKILL
        kills += 1
        if kills % 2 == 0 and (newest := newest_checkpoint(run)) is not None:  # and a power cut besides
            newest.write_bytes(newest.read_bytes()[:-100])
            damaged += 1
    assert kills >= 4
    assert damaged
    assert result(run) == result(whole)
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert sorted(steps) == steps
    assert {*steps} >= {*range(max(steps))}


def test_killed_from_outside_while_it_runs(processes: Any, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert attempt(processes, "ppo", whole, None) == 0
    for lines in (1, 2, 3):
        process = processes.Process(target=killed.run, args=("ppo", str(run), None))
        process.start()
        until = time.monotonic() + 60
        while process.is_alive() and time.monotonic() < until:
            if (run / "metrics.jsonl").is_file() and (run / "metrics.jsonl").read_bytes().count(b"\n") >= lines:
                process.kill()
                break
            time.sleep(0.001)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    assert attempt(processes, "ppo", run, None) == 0
    assert result(run) == result(whole)
