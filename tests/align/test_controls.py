"""Expected win rates and controls of the miniature's evaluation."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from heedful.align import controls
from heedful.align.controls import Sampled, expected_preference, sample
from heedful.align.settings import Given, given_for, setting_of
from heedful.align.simulated import SimulatedLabelers
from heedful.align.stages import stage
from heedful.evaluate.results import ExpectedRow
from heedful.miniature.expected import Judged, mean_rating
from heedful.miniature.good_answers import answer
from heedful.miniature.invented_world import World
from heedful.miniature.labelers import best_utility
from heedful.miniature.panel import Panel
from heedful.miniature.preparation import base_model_folder, miniature_project
from heedful.miniature.tasks import prompts
from heedful.model.loading import load_causal_model, load_tokenizer
from heedful.model.saving import save_model
from heedful.model.scalar_models import scalar_model_from_causal
from heedful.presets import resolved_preset
from heedful.project.data_folder import Records
from heedful.records import Prompt, Response

WORLD = World(0)
PROMPTS = prompts(WORLD, seed=4, count=24, split="test")


@pytest.fixture
def given(tmp_path: Path) -> Given:
    project = miniature_project(tmp_path / "miniature", seed=0)
    labelers, records = SimulatedLabelers(project, Panel(WORLD, seed=0)), Records.of(PROMPTS)
    runs = {"reward": tmp_path / "reward", "ppo": tmp_path / "ppo"}
    runs["ppo"].mkdir()
    rows = [{"step": i, "kl": 0.1 * i} for i in range(30)]
    (runs["ppo"] / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return given_for(stage("evaluate"), setting_of(project, resolved_preset(project), labelers, records), records, runs)


def answers(name: str, count: int, write: Callable[[Prompt, random.Random], str]) -> dict[str, list[Response]]:
    """``count`` answers of a made-up model to each prompt."""
    rng = random.Random(name)
    return {
        p.id: [Response(id=f"{name}-{p.id}-{i}", prompt_id=p.id, text=write(p, rng), model=name) for i in range(count)]
        for p in PROMPTS
    }


def good(prompt: Prompt, rng: random.Random) -> str:
    return answer(WORLD, rng, dict(prompt.metadata))


def mixed(prompt: Prompt, rng: random.Random) -> str:
    """Half of the time a good answer, else one to another prompt."""
    return good(prompt if rng.random() < 0.5 else rng.choice(PROMPTS), rng)


def another_task(prompt: Prompt, rng: random.Random) -> str:
    return "Write a story about Mia and the lamp."


def rows_of(given: Given, sampled: Sampled) -> dict[str, ExpectedRow]:
    return {row["name"]: row for row in expected_preference(given, sampled)["rows"]}


def test_controls_stand_where_they_must(given: Given) -> None:
    candidates = answers("candidate", 8, mixed)
    # The perfect reward model: it knows what labelers think.
    held_out = given.setting.labelers.panel.labelers["held_out"]  # type: ignore[union-attr]
    rewards: dict[str, float] = {}
    for prompt in PROMPTS:
        for response in candidates[prompt.id]:
            rewards[response.id] = controls.judged(WORLD, held_out, prompt, response.text).utility
    of_model = {
        "base": answers("base", 1, another_task),
        "sft": answers("sft", 3, mixed),
        "ppo": answers("ppo", 3, good),
    }
    rows = rows_of(given, Sampled(PROMPTS, of_model, answers("greedy", 1, good), candidates, rewards))
    best = [f"sft_best_of_{n}" for n in controls.BEST_OF]
    assert list(rows) == ["base", "sft", "ppo", "sft_greedy", *best, "faultless"]
    assert rows["sft"]["win_rate"] == pytest.approx(0.5)
    assert rows["base"]["win_rate"] < 0.15
    assert rows["base"]["faultless"] == 0
    assert rows["ppo"]["win_rate"] > 0.65
    assert rows["faultless"]["win_rate"] == pytest.approx(rows["ppo"]["win_rate"], abs=0.1)
    assert rows["faultless"]["faultless"] > 0.95
    for one, more in pairwise(best):  # a reward model that knows everything: more is better
        assert rows[more]["win_rate"] > rows[one]["win_rate"]
        assert rows[more]["utility"] > rows[one]["utility"]
    assert rows["sft_best_of_1"]["win_rate"] == pytest.approx(0.5, abs=0.1)
    assert rows["sft_best_of_8"]["kl"] == pytest.approx(2.0794415 - 7 / 8)  # log 8 - 7/8
    assert rows["ppo"]["kl"] == pytest.approx(2.8)  # of iterations 27, 28 and 29
    assert rows["sft"]["kl"] is None


def test_the_same_answers_give_the_same_numbers(given: Given) -> None:
    def once() -> Any:
        candidates = answers("candidate", 8, mixed)
        rewards = {r.id: float(len(r.text)) for found in candidates.values() for r in found}
        of_model = {"sft": answers("sft", 3, mixed)}
        return expected_preference(given, Sampled(PROMPTS, of_model, answers("greedy", 1, good), candidates, rewards))

    assert once() == once()


def test_what_the_evaluation_lacks_is_sampled(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controls, "NUM_PROMPTS", 3)
    monkeypatch.setattr(controls, "BEST_OF", (1, 2))
    small = base_model_folder("small")
    tokenizer = load_tokenizer(small)
    reward_model = scalar_model_from_causal(load_causal_model(small), pad_token_id=None, eos_token_id=tokenizer.eos_token_id)  # type: ignore[arg-type]
    save_model(reward_model, tokenizer, given.runs["reward"] / "model")
    own = [answers(name, 1, good) for name in ("base", "sft", "ppo")]
    responses = [response for found in own for of_prompt in found.values() for response in of_prompt]
    folders: dict[str, Path] = dict.fromkeys(("base", "sft", "ppo"), small)
    sampled = sample(given, PROMPTS, responses, folders, reward_model, Console(quiet=True))
    asked = [p.id for p in PROMPTS[:3]]
    assert {name: [len(found[i]) for i in asked] for name, found in sampled.of_model.items()} == {
        "base": [1, 1, 1],
        "sft": [controls.SAMPLES] * 3,
        "ppo": [controls.SAMPLES] * 3,
    }
    assert [len(sampled.greedy[i]) for i in asked] == [1, 1, 1]
    assert [len(sampled.candidates[i]) for i in asked] == [2, 2, 2]
    assert set(sampled.rewards) == {r.id for found in sampled.candidates.values() for r in found}
    # PPO's further answers are other ones than SFT's, though both are the same model here: each has random numbers of its own.
    texts = {name: [r.text for i in asked for r in sampled.of_model[name][i][1:]] for name in ("sft", "ppo")}
    assert texts["sft"] != texts["ppo"]


def test_expected_rating_is_the_mean_of_simulated_ratings() -> None:
    """By 4,000 draws of the labelers' own function, within four standard errors."""
    labeler = Panel(WORLD, seed=0).labelers["held_out"][0]
    for utility in (0.5, 2.0, 4.5):
        one = Judged("text", (utility,), False)
        rng = random.Random(f"ratings {utility}")
        drawn = [
            min(7, max(1, round(1 + 6 * (utility + labeler.noise * rng.gauss(0, 1)) / best_utility(labeler))))
            for _ in range(4_000)
        ]
        mean = sum(drawn) / len(drawn)
        error = (sum((x - mean) ** 2 for x in drawn) / len(drawn)) ** 0.5 / len(drawn) ** 0.5
        assert mean_rating([labeler], one) == pytest.approx(mean, abs=4 * error + 1e-9)
