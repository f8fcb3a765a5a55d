"""The evaluation with less noise from labelers and sampling, and with controls. For simulated labelers only.

Models answer some prompts several times, and held-out labelers' opinions of these answers are computed in closed form
(:mod:`heedful.miniature.expected`). Controls show what a win rate means. An always faultless answer is the most that any model
can reach. SFT at temperature 0 shows what sampling alone gains. The best of n SFT answers by reward shows what the reward model
alone gains, without PPO.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from heedful.align.settings import Given
from heedful.align.simulated import SimulatedLabelers
from heedful.evaluate import lineup
from heedful.evaluate.results import ExpectedPreference, ExpectedRow
from heedful.miniature.expected import Judged, judged, mean_preference
from heedful.miniature.good_answers import answer
from heedful.model.answering import Answerer, score_responses
from heedful.model.inference import policy_for_inference
from heedful.model.loading import load_tokenizer
from heedful.project.files import read_jsonl
from heedful.records import Prompt, Response
from heedful.statistics import Estimate, best_of_n, best_of_n_kl, bootstrap_mean

NUM_PROMPTS = 400
"""Number of the evaluation's prompts that are answered several times."""
SAMPLES = 3
"""Answers of SFT, PPO and PPO-ptx to each of these prompts, including the evaluation's. All other models have one."""
BEST_OF = (1, 2, 4, 8)
"""Numbers of SFT answers from which the reward model chooses."""

_Answers = Mapping[str, list[Response]]
"""Prompt id -> responses."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """What is compared: each model's answers, SFT's at temperature 0, and SFT's candidates for best of n with their rewards."""

    prompts: Sequence[Prompt]
    of_model: Mapping[str, _Answers]
    greedy: _Answers
    candidates: _Answers
    rewards: Mapping[str, float]


def sample(
    given: Given,
    prompts: Sequence[Prompt],
    responses: Sequence[Response],
    folders: Mapping[str, Path],
    reward_model: Any,
    console: Console,
) -> Sampled:
    """Sample the answers that the evaluation's own ``responses`` lack. Under ``torchrun`` all ranks must call it.

    folders: folders of the models that answer without a few-shot prefix, by name.
    """
    chosen = prompts[:NUM_PROMPTS]
    of_model: dict[str, dict[str, list[Response]]] = {}
    wanted = {prompt.id for prompt in chosen}
    for response in responses:
        if response.prompt_id in wanted:
            of_model.setdefault(str(response.model), {}).setdefault(response.prompt_id, []).append(response)
    temperature = given.config.temperature
    for model in (lineup.SFT, lineup.PPO, lineup.PPO_PTX):
        if model.name in folders:
            more = _answers(given, folders[model.name], model.name, chosen, SAMPLES - 1, temperature, console)
            for prompt_id, found in more.items():
                of_model[model.name][prompt_id] += found
    sft = folders[lineup.SFT.name]
    greedy = _answers(given, sft, "sft at temperature 0", chosen, 1, 0.0, console)
    candidates = _answers(given, sft, "sft to choose from", chosen, max(BEST_OF), temperature, console)
    limits = given.setting.preset.answering("evaluate")
    rewards = score_responses(
        reward_model,
        load_tokenizer(given.runs["reward"] / "model"),
        given.records.prompts,
        [response for found in candidates.values() for response in found],
        max_response_tokens=limits.max_response_tokens,
        template=given.setting.template,
    )
    return Sampled(chosen, of_model, greedy, candidates, rewards)


def _answers(
    given: Given, folder: Path, name: str, prompts: Sequence[Prompt], count: int, temperature: float, console: Console
) -> dict[str, list[Response]]:
    """``count`` answers of one model to each prompt."""
    setting, limits = given.setting, given.setting.preset.answering("evaluate")
    model, tokenizer = policy_for_inference(folder, limits.precision)
    asked = [prompt for prompt in prompts for _ in range(count)]
    responses = Answerer(model, tokenizer, limits, setting.project.engine, setting.template).answer(
        asked,
        name=name,
        ids=[f"control-{name}-{prompt.id}-{i}" for prompt in prompts for i in range(count)],
        temperature=temperature,
        seed=setting.seed,
        console=console,
    )
    found: dict[str, list[Response]] = {prompt.id: [] for prompt in prompts}
    for response in responses:
        found[response.prompt_id].append(response)
    return found


def expected_preference(given: Given, sampled: Sampled) -> ExpectedPreference:
    """Win rates of models and controls against SFT, as held-out simulated labelers would give them on average."""
    labelers = given.setting.labelers
    assert isinstance(labelers, SimulatedLabelers)
    world, held_out = labelers.panel.world, labelers.panel.labelers["held_out"]

    def opinions(answers: _Answers) -> dict[str, list[Judged]]:
        return {
            prompt.id: [judged(world, held_out, prompt, r.text, finished=r.finished) for r in answers[prompt.id]]
            for prompt in sampled.prompts
        }

    baseline = opinions(sampled.of_model[lineup.SFT.name])

    def row(name: str, label: str, found: Mapping[str, list[Judged]], kl: float | None = None) -> ExpectedRow:
        pairs = [mean_preference(held_out, found[prompt.id], baseline[prompt.id]) for prompt in sampled.prompts]
        every = [one for answers in found.values() for one in answers]
        return _row(
            name,
            label,
            bootstrap_mean([win for win, _ in pairs], seed=given.setting.seed),
            ties=sum(tie for _, tie in pairs) / len(pairs),
            faultless=sum(one.faultless for one in every) / len(every),
            utility=sum(one.utility for one in every) / len(every),
            kl=kl,
        )

    rows: list[ExpectedRow] = []
    for model in lineup.CONTENDERS:
        if model.name in sampled.of_model:
            own = baseline if model == lineup.SFT else opinions(sampled.of_model[model.name])
            rows.append(row(model.name, model.label, own, _last_kl(given.runs.get(model.name))))
    rows.append(row("sft_greedy", "SFT at temperature 0", opinions(sampled.greedy)))
    rows += _best_of_rows(given, sampled, opinions(sampled.candidates), baseline)
    rng = random.Random(f"faultless {given.setting.seed}")
    perfect = {
        prompt.id: [judged(world, held_out, prompt, answer(world, rng, dict(prompt.metadata)))] for prompt in sampled.prompts
    }
    rows.append(row("faultless", "An always faultless answer", perfect))
    return {
        "baseline": lineup.SFT.name,
        "num_prompts": len(sampled.prompts),
        "num_labelers": len(held_out),
        "rows": rows,
    }


def _best_of_rows(
    given: Given, sampled: Sampled, candidates: Mapping[str, list[Judged]], baseline: Mapping[str, list[Judged]]
) -> list[ExpectedRow]:
    """For each n, the best of n by reward, averaged over all subsets of n candidates."""
    labelers = given.setting.labelers
    assert isinstance(labelers, SimulatedLabelers)
    held_out = labelers.panel.labelers["held_out"]
    scores = {name: [sampled.rewards[r.id] for r in found] for name, found in sampled.candidates.items()}
    against = {name: [mean_preference(held_out, [one], baseline[name]) for one in found] for name, found in candidates.items()}

    def chosen(values: Mapping[str, Sequence[float]]) -> Mapping[int, Estimate]:
        return best_of_n(scores, BEST_OF, values=values, seed=given.setting.seed)

    wins = chosen({name: [win for win, _ in found] for name, found in against.items()})
    ties = chosen({name: [tie for _, tie in found] for name, found in against.items()})
    faultless = chosen({name: [float(one.faultless) for one in found] for name, found in candidates.items()})
    utility = chosen({name: [one.utility for one in found] for name, found in candidates.items()})
    return [
        _row(
            f"sft_best_of_{n}",
            f"SFT, best of {n} by the reward model",
            wins[n],
            ties=ties[n].value,
            faultless=faultless[n].value,
            utility=utility[n].value,
            kl=best_of_n_kl(n),
        )
        for n in BEST_OF
    ]


def _row(
    name: str, label: str, wins: Estimate, *, ties: float, faultless: float, utility: float, kl: float | None
) -> ExpectedRow:
    return {
        "name": name,
        "label": label,
        "win_rate": wins.value,
        "low": wins.low,
        "high": wins.high,
        "ties": ties,
        "faultless": faultless,
        "utility": utility,
        "kl": kl,
    }


def _last_kl(run: Path | None) -> float | None:
    """Mean KL over the last tenth of a PPO run's iterations, in nats per response; None for other models."""
    if run is None or not (run / "metrics.jsonl").is_file():
        return None
    found = [float(row["kl"]) for _, row in read_jsonl(run / "metrics.jsonl") if row.get("kl") is not None]
    last = found[-max(1, len(found) // 10) :]
    return sum(last) / len(last) if last else None
