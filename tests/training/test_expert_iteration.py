"""Expert iteration: what it chooses and learns, and that an interrupted run ends with the same bytes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import END, largest_difference, snapshot, tiny_gpt2, tiny_tokenizer
from tests.training.interrupting import interrupted_at, quiet
from transformers import PreTrainedModel

from heedful.errors import ConfigError, DataError
from heedful.model import load_causal_model, scalar_model_from_causal
from heedful.model.precision import frozen
from heedful.model.saving import save_model
from heedful.training import expert_iteration, sft
from heedful.training.alternatives_config import AlternativesConfig, BestOfNConfig, ExpertIterationConfig, GroupRewardConfig
from heedful.training.expert_iteration import Answer, best_answers, train_expert_iteration

TOKENIZER = tiny_tokenizer()
PROMPTS = [[8 + i, 9, 20 + i] for i in range(12)]


def settings(**changed: Any) -> ExpertIterationConfig:
    defaults: dict[str, Any] = {
        "precision": "float32",
        "rounds": 2,
        "prompts": 8,
        "samples": 4,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "max_response_tokens": 40,
    }
    return ExpertIterationConfig(**{**defaults, **changed})


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "model"
    save_model(tiny_gpt2(scale=0.1), TOKENIZER, folder)
    return folder


def reward_model() -> PreTrainedModel:
    torch.manual_seed(0)
    return frozen(scalar_model_from_causal(tiny_gpt2(5, scale=0.3), pad_token_id=None, eos_token_id=END), "float32")


def run(start: Path, folder: Path, **changed: Any) -> Path:
    return train_expert_iteration(start, reward_model(), TOKENIZER, PROMPTS, settings(**changed), folder, console=quiet())


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def digest(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.is_file()}


def test_the_best_finished_answer_of_each_prompt_is_chosen() -> None:
    rows = [
        Answer(0, [1, END], True, 0.5),
        Answer(0, [2, 2], False, 9.0),  # cut: never learned
        Answer(0, [3, END], True, 0.7),
        Answer(1, [4, 4], False, 1.0),  # none of its answers is finished: left out
        Answer(2, [5, END], True, -3.0),
        Answer(2, [6, END], True, -3.0),
    ]
    assert [answer.tokens for answer in best_answers(rows)] == [[3, END], [5, END]]
    with pytest.raises(DataError, match="no answer reached its end"):
        best_answers(rows[3:4])


def test_rewards_rise_and_the_folder_holds_what_is_needed(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def likes_sevens(model: Any, prompts: Any, responses: list[list[int]], **more: Any) -> torch.Tensor:
        return torch.tensor([float(row.count(7)) for row in responses])

    monkeypatch.setattr(expert_iteration, "score", likes_sevens)
    given: list[list[Answer]] = []

    def noted(answers: list[Answer]) -> list[Answer]:
        given.append(answers)
        return best_answers(answers)

    monkeypatch.setattr(expert_iteration, "best_answers", noted)
    folder = run(start, tmp_path, rounds=3, prompts=12, samples=8, epochs=4, learning_rate=1e-2)
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert rows[-1]["reward"] > 1.3 * rows[0]["reward"]
    assert all(row["best_reward"] > row["reward"] for row in rows)
    assert folder == tmp_path / "model"
    assert largest_difference(snapshot(load_causal_model(start, "float32")), snapshot(load_causal_model(folder, "float32"))) > 0
    assert not (tmp_path / "checkpoints").exists()
    assert not [path for path in tmp_path.rglob("*.safetensors") if path.parent != folder], "only the last model stays"
    assert not list(tmp_path.rglob("answers.jsonl"))
    answers = given[0]
    assert len(answers) == 12 * 8
    assert rows[0]["generated_tokens"] == sum(len(answer.tokens) for answer in answers)
    assert rows[0]["reward"] == pytest.approx(sum(answer.reward for answer in answers) / len(answers), rel=1e-5)
    learned = {answer.prompt for answer in answers if answer.finished}
    assert rows[0]["learned"] == len(learned)


@pytest.mark.parametrize("where", ["in the first training", "in the second training", "while it samples", "after a round"])
def test_an_interrupted_run_ends_with_the_same_bytes(
    where: str, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(start, tmp_path / "whole")
    with monkeypatch.context() as patched:
        if where == "while it samples":
            patched.setattr(expert_iteration, "score", interrupted_at(2, expert_iteration.score))
        elif where == "after a round":
            patched.setattr(expert_iteration, "record", interrupted_at(1, expert_iteration.record))
        else:
            patched.setattr(sft, "apply_gradients", interrupted_at(2 if "first" in where else 3, sft.apply_gradients))
        with pytest.raises(KeyboardInterrupt):
            run(start, tmp_path / "run")
    asked = 0
    original = expert_iteration.score

    def counted(*args: Any, **more: Any) -> Any:
        nonlocal asked
        asked += 1
        return original(*args, **more)

    monkeypatch.setattr(expert_iteration, "score", counted)
    again = run(start, tmp_path / "run")
    assert asked == (0 if "second" in where else 1), "a round's answers are sampled once"
    assert digest(again) == digest(whole)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_other_prompts_in_the_same_folder_are_refused(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expert_iteration, "step", interrupted_at(1, expert_iteration.step))
    with pytest.raises(KeyboardInterrupt):
        run(start, tmp_path)
    with pytest.raises(ConfigError, match="checkpoints of another run"):
        run(start, tmp_path, samples=5)
    with pytest.raises(DataError, match="no prompt to answer"):
        train_expert_iteration(start, reward_model(), TOKENIZER, [], settings(), tmp_path / "none", console=quiet())


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="with one answer there is no choice"):
        settings(samples=1)
    with pytest.raises(ConfigError, match="BestOfNConfig: samples"):
        BestOfNConfig(samples=0)
    with pytest.raises(ConfigError, match="rounds"):
        settings(rounds=0)
    for members, weights, message in (
        ({"a": ("ann",)}, {}, "different groups"),
        ({"a": ("ann",)}, {"a": 0.0}, "out of range"),
        ({"a": ("ann",), "b": ("ann",)}, {"a": 1.0, "b": 1.0}, "in two groups"),
    ):
        with pytest.raises(ConfigError, match=message):
            GroupRewardConfig(members=members, weights=weights)
    with pytest.raises(ConfigError, match="named twice"):
        AlternativesConfig(run=("dpo", "dpo"))
