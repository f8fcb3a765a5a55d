"""A second reward model's opinion of a project's policies: how often their answers are above those of the SFT model.

    python tests/real/second_judge.py PROJECT JUDGE

PROJECT has run `heedful align` with best_of_n among its alternatives. JUDGE is another project, whose reward model and rankings
share no prompt with PROJECT's. It makes the table in docs/alternatives.md for a model of 135 million parameters.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from heedful.align.trial_stages import newest_run
from heedful.model.answering import Answerer, score_responses
from heedful.model.inference import policy_for_inference, reward_model_for_inference
from heedful.model.loading import load_tokenizer
from heedful.presets import resolved_preset
from heedful.project.data_folder import Records
from heedful.project.files import read_jsonl
from heedful.project.project import Project
from heedful.project.runs import records_in
from heedful.project.selection import training_rankings
from heedful.records import Prompt, Response
from heedful.statistics import Estimate, bootstrap_mean, fit_bag_of_words, ranked_pairs
from heedful.statistics.intervals import FloatArray

SFT = "sft"
COMPARED = 4
"""Samples of the stage best_of_n with which every answer is compared, besides SFT's answer in the evaluation."""

Answers = Mapping[str, Response]
"""Prompt id -> answer."""
Score = Callable[[Sequence[Response]], list[float]]


def samples_of(folder: Path) -> list[tuple[Answers, Mapping[str, float]]]:
    """The answers of each sample file of the stage best_of_n, and their rewards, by prompt."""
    found: list[tuple[Answers, Mapping[str, float]]] = []
    for number in range(1, len(list(folder.glob("samples-*.jsonl"))) + 1):
        rows = [row for _, row in read_jsonl(folder / f"samples-{number}.jsonl")]
        answers = {
            row["prompt_id"]: Response(
                id=f"{number}-{row['prompt_id']}",
                prompt_id=row["prompt_id"],
                text=row["text"],
                model=SFT,
                finished=row["finished"],
            )
            for row in rows
        }
        found.append((answers, {row["prompt_id"]: row["reward"] for row in rows}))
    return found


def best_of(samples: Sequence[tuple[Answers, Mapping[str, float]]]) -> Answers:
    """Each prompt's answer with the highest reward."""
    best: dict[str, Response] = {}
    for prompt in samples[0][0]:
        answers, _ = max(samples, key=lambda sample: sample[1][prompt])
        best[prompt] = answers[prompt]
    return best


def at_temperature_zero(project: Project, prompts: Sequence[Prompt]) -> Answers:
    """The base model's answers at temperature 0."""
    model, tokenizer = policy_for_inference(project.model_folder(project.base_model), "bfloat16")
    limits = resolved_preset(project).answering("evaluate")
    answers = Answerer(model, tokenizer, limits, project.engine, project.template).answer(
        prompts, name="sft at 0", ids=[f"zero-{prompt.id}" for prompt in prompts], temperature=0.0, seed=project.seed
    )
    return {answer.prompt_id: answer for answer in answers}


def judge_scores(project: Project, records: Records, judge: Project) -> Score:
    """Scores by the judge's reward model, each text once."""
    folder = run_of(judge, "reward") / "model"
    model, tokenizer = reward_model_for_inference(folder, "bfloat16"), load_tokenizer(folder)
    limits = resolved_preset(project).answering("evaluate")
    known: dict[tuple[str, str, bool], float] = {}

    def key(answer: Response) -> tuple[str, str, bool]:
        return answer.prompt_id, answer.text, answer.finished

    def scores(answers: Sequence[Response]) -> list[float]:
        new = {key(answer): answer for answer in answers if key(answer) not in known}
        if new:
            numbered = [replace(answer, id=str(number)) for number, answer in enumerate(new.values())]
            found = score_responses(
                model,
                tokenizer,
                records.prompts,
                numbered,
                max_response_tokens=limits.max_response_tokens,
                template=project.template,
            )
            known.update(zip(new, (found[answer.id] for answer in numbered), strict=True))
        return [known[key(answer)] for answer in answers]

    return scores


def word_scores(judge: Project) -> Score:
    """Scores by a bag of words that learned from the judge's training rankings."""
    records = Records.load(judge.data)
    pairs = ranked_pairs(training_rankings(records, "train"))
    words = fit_bag_of_words(pairs, {name: response.text for name, response in records.responses.items()})
    return lambda answers: [words.score(answer.text) for answer in answers]


def run_of(project: Project, stage: str) -> Path:
    """The folder of a stage's newest finished run. Exits if there is none."""
    run = newest_run(project, stage)
    if run is None:
        sys.exit(f"{project.folder}: the stage {stage} is not done")
    return run.folder


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Every answer of a policy beside every other answer to the same prompt: [prompts, comparisons]."""

    wins: FloatArray
    """1 if the policy's answer has the higher score, 0.5 for a tie."""
    longer: FloatArray
    """How many words more it has."""


def comparisons(groups: Sequence[Answers], others: Sequence[Answers], score: Score) -> Comparisons:
    """Compare each answer of the groups with each of the others to the same prompt."""
    order = sorted(others[0])
    rows = [[one[prompt] for prompt in order] for one in (*groups, *others)]
    scores, words = np.array([score(row) for row in rows]), np.array([[len(one.text.split()) for one in row] for row in rows])
    pairs = [(own, other) for own in range(len(groups)) for other in range(len(groups), len(rows))]
    wins = [(scores[own] > scores[other]) + 0.5 * (scores[own] == scores[other]) for own, other in pairs]
    return Comparisons(np.array(wins).T, np.array([words[own] - words[other] for own, other in pairs], dtype=np.float64).T)


def win_rate(found: Comparisons) -> Estimate:
    """The share of wins, with a 95 % interval over prompts."""
    return bootstrap_mean(found.wins.mean(axis=1).tolist(), seed=0)


def win_rate_at_equal_length(found: Comparisons) -> Estimate:
    """The intercept of a linear regression of wins on the difference of length in words; interval as in :func:`win_rate`."""
    x, y = found.longer, found.wins
    sums = np.stack([np.full(len(x), x.shape[1]), x.sum(1), y.sum(1), (x * x).sum(1), (x * y).sum(1)])
    drawn = np.random.default_rng(0).integers(len(x), size=(2_000, len(x)))
    resampled = _intercept(sums[:, drawn].sum(axis=2))
    low, high = np.quantile(resampled, [0.025, 0.975])
    value = float(_intercept(sums.sum(axis=1)))
    return Estimate(value, float(low), float(high), count=x.size, standard_error=float(resampled.std()))


def _intercept(sums: FloatArray) -> FloatArray:
    n, x, y, xx, xy = sums
    slope = (n * xy - x * y) / (n * xx - x * x)
    return (y - slope * x) / n


def percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} % ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def ended(score: Score) -> Score:
    """The scores of the same texts, as if each answer had ended."""
    return lambda answers: score([replace(answer, finished=True) for answer in answers])


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    project, judge = (Project.load(Path(folder)) for folder in sys.argv[1:])
    records = Records.load(project.data)
    single: dict[str, dict[str, Response]] = {}
    for response in records_in(run_of(project, "evaluate"), "response"):
        single.setdefault(response.model, {})[response.prompt_id] = response
    policies: dict[str, Sequence[Answers]] = {name: [own] for name, own in single.items() if name != "best_of_n"}
    samples = samples_of(run_of(project, "best_of_n"))
    groups = [samples[i : i + 4] for i in range(COMPARED, len(samples), 4)]
    policies["best of 4"] = [best_of(group) for group in groups]
    policies[f"best of {len(samples)}"] = [best_of(samples)]
    order = sorted(policies[SFT][0])
    policies["sft at 0"] = [at_temperature_zero(project, [records.prompts[prompt] for prompt in order])]
    others = [policies[SFT][0], *(answers for answers, _ in samples[:COMPARED])]
    by_judge, by_words = judge_scores(project, records, judge), word_scores(judge)
    print(f"{len(order)} prompts, {len(others)} answers of SFT to each")
    print("wins: all as if ended | the same at equal length | as answered | bag of words")
    for name, own in policies.items():
        answers = [answer for group in own for answer in group.values()]
        found = [comparisons(own, others, score) for score in (ended(by_judge), by_judge, by_words)]
        shown = [percent(win_rate(one)) for one in found]
        shown.insert(1, percent(win_rate_at_equal_length(found[0])))
        length = np.mean([len(answer.text.split()) for answer in answers])
        cut = np.mean([not answer.finished for answer in answers])
        print(f"{name}: {' | '.join(shown)} | {length:.1f} words, {cut:.0%} cut", flush=True)


if __name__ == "__main__":
    main()
