"""Answers that several processes write are those that one writes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from tests.align.small_project import write_base_model

from heedful.align import written_answers
from heedful.align.written_answers import Writing, written
from heedful.conversation import turns_of
from heedful.errors import DataError
from heedful.records import Prompt
from heedful.training.config import SFTConfig

LIMITS = SFTConfig(max_prompt_tokens=12, max_response_tokens=8)


def setting(processes: int) -> Any:
    project = SimpleNamespace(processes=processes, engine="heedful")
    return SimpleNamespace(project=project, template="plain", seed=3)


def writing(folder: Path, name: str, count: int) -> Writing:
    prompts = [Prompt(id=f"{name}-{n}", turns=turns_of(f"w{n} w{n + 1}")) for n in range(count)]
    return Writing(name=name, folder=folder, prompts=prompts, ids=[f"of {one.id}" for one in prompts])


def test_two_processes_write_what_one_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written_answers, "FEWEST_APART", 1)
    model = write_base_model(tmp_path / "base")
    # The second model has one prompt, so one process has nothing to do for it; the third has none.
    writings = [writing(model, "sft", 5), writing(model, "earlier", 1), writing(model, "nothing", 0)]
    found = {
        processes: sorted(written(setting(processes), writings, LIMITS, 1.0, Console(quiet=True)), key=lambda one: one.id)
        for processes in (1, 2)
    }
    assert [(one.id, one.model) for one in found[1]] == [
        ("of earlier-0", "earlier"),
        *((f"of sft-{n}", "sft") for n in range(5)),
    ]
    assert len({one.text for one in found[1]}) > 1
    assert found[1] == found[2]


def test_a_prompt_over_the_limit_is_refused_in_any_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written_answers, "FEWEST_APART", 1)
    one = writing(write_base_model(tmp_path / "base"), "sft", 2)
    long = Prompt(id="long", turns=turns_of("w1 " * 40))
    asked = Writing(name="sft", folder=one.folder, prompts=[*one.prompts, long], ids=[*one.ids, "of long"])
    for processes in (1, 2):
        with pytest.raises(DataError, match="'long' is over the limit"):
            written(setting(processes), [asked], LIMITS, 1.0, Console(quiet=True))
