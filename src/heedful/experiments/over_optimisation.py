"""Further points of the over-optimisation figure: the initial policy, with KL 0, and the best of n of the SFT model's answers.

Best of n also optimises against the reward model, but without training, and its KL from SFT is known in closed form.
A PPO run with fewer episodes is the longer run stopped earlier: same seeds, same constant learning rate after the warm-up. So
the saved steps of a run are runs of fewer episodes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from heedful.align.judge import sft_entrant
from heedful.align.settings import write_json
from heedful.align.simulated import SimulatedLabelers
from heedful.align.stages import stage
from heedful.align.train_stages import initial_policy_of
from heedful.experiments.catalogue import PLAIN, Experiment
from heedful.experiments.findings import Measure, Point, as_measure
from heedful.experiments.measuring import (
    Yardstick,
    answer_into,
    by_prompt,
    judged_answers,
    measure_model,
    reward_of_each,
)
from heedful.experiments.workshop import Workshop
from heedful.miniature.expected import mean_preference
from heedful.project.runs import records_in
from heedful.statistics import best_of_n, best_of_n_kl

NAME = "over-optimisation"
BEST_OF = "best of n"
SIZES = (1, 2, 4, 8, 16)
_FILE = "best_of.json"


def further_points(shop: Workshop, experiment: Experiment, stick: Yardstick) -> list[Point]:
    """The points of this figure that are not variants; none for other experiments."""
    if experiment.name != NAME:
        return []
    return [_initial_point(shop, stick), *_best_of_points(shop, stick)]


def _initial_point(shop: Workshop, stick: Yardstick) -> Point:
    row = stage("ppo")
    folder = initial_policy_of(shop.given(row, shop.preset.ppo, shop.earlier))
    finished, found = measure_model(shop, folder, folder, stick, {"model": shop.digest(folder)})
    return {
        "series": PLAIN,
        "value": 0.0,
        "seed": shop.preset.ppo.seed,
        "folder": _relative(shop, finished.folder),
        "seconds": 0.0,
        "measures": {name: as_measure(one) for name, one in found.items()},
    }


def _best_of_points(shop: Workshop, stick: Yardstick) -> list[Point]:
    folder = sft_entrant(shop.given(stage("evaluate"), shop.preset.evaluate, shop.earlier)).folder
    inputs = {
        "model": shop.digest(folder),
        "baseline": stick.baseline.fingerprint,
        "reward": shop.earlier["reward"].fingerprint,
        "held_out_reward": None if stick.held_out_reward is None else stick.held_out_reward.fingerprint,
        "sizes": SIZES,
    }
    done = shop.stages.run("best_of", inputs, partial(_best_of_into, shop, folder, stick))
    found = read_best_of(done.folder)
    return [
        {
            "series": BEST_OF,
            "value": float(n),
            "seed": shop.preset.ppo.seed,
            "folder": _relative(shop, done.folder),
            "seconds": round(done.seconds, 2),
            "measures": dict(measures),
        }
        for n, measures in found.items()
    ]


def _best_of_into(shop: Workshop, model: Path, stick: Yardstick, folder: Path) -> None:
    """For each n: the expected best of n by reward, averaged over all subsets of the answers."""
    responses = answer_into(shop, model, "sft to choose from", stick.prompts, max(SIZES), folder)
    candidates = by_prompt(responses)
    rewards = reward_of_each(shop, shop.earlier["reward"].folder, responses)
    scores = {name: [rewards[one.id] for one in found] for name, found in candidates.items()}
    values: dict[str, Mapping[str, Sequence[float]]] = {"reward": scores}
    if stick.held_out_reward is not None:
        held_out = reward_of_each(shop, stick.held_out_reward.folder, responses)
        values["held_out_reward"] = {name: [held_out[one.id] for one in found] for name, found in candidates.items()}
    labelers = shop.setting.labelers
    if isinstance(labelers, SimulatedLabelers):
        panel = labelers.panel.labelers["held_out"]
        baseline = judged_answers(shop, by_prompt(list(records_in(stick.baseline.folder, "response"))))
        values["win_rate"] = {
            name: [mean_preference(panel, [one], baseline[name])[0] for one in found]
            for name, found in judged_answers(shop, candidates).items()
        }
    rows: dict[str, dict[str, Measure]] = {}
    for n in SIZES:
        rows[str(n)] = {
            name: as_measure(best_of_n(scores, [n], values=own, seed=shop.setting.seed)[n]) for name, own in values.items()
        }
        rows[str(n)]["kl"] = Measure(value=best_of_n_kl(n), low=None, high=None)
    write_json(folder / _FILE, rows)


def read_best_of(folder: Path) -> dict[int, dict[str, Measure]]:
    """n -> its measures."""
    rows = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    return {int(n): row for n, row in rows.items()}


def _relative(shop: Workshop, folder: Path) -> str:
    return folder.relative_to(shop.project.folder).as_posix()
