"""A second reward model's opinion of a project's policies: how often their answers are above those of the SFT model.

    python tests/real/second_judge.py PROJECT JUDGE

PROJECT has run `heedful align` with best_of_n among its alternatives. JUDGE is another project, whose reward model and rankings
share no prompt with PROJECT's. It makes the table in docs/alternatives.md for a model of 135 million parameters.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from heedful.statistics import bootstrap_mean, fit_bag_of_words, ranked_pairs

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


def wins(groups: Sequence[Answers], others: Sequence[Answers], score: Score) -> str:
    """How often an answer's score is above those of the others to the same prompt, a tie half; interval over prompts."""
    order = sorted(others[0])
    theirs = np.array([score([one[prompt] for prompt in order]) for one in others])
    shares = np.zeros(len(order))
    for group in groups:
        ours = np.array(score([group[prompt] for prompt in order]))
        shares += ((ours > theirs) + 0.5 * (ours == theirs)).mean(axis=0) / len(groups)
    estimate = bootstrap_mean(shares.tolist(), seed=0)
    return f"{estimate.value:.1%} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


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
    print(f"{len(order)} prompts, {len(others)} answers of SFT to each; wins: all as if ended | as answered | bag of words")
    for name, own in policies.items():
        answers = [answer for group in own for answer in group.values()]
        shown = [wins(own, others, score) for score in (ended(by_judge), by_judge, by_words)]
        length = np.mean([len(answer.text.split()) for answer in answers])
        cut = np.mean([not answer.finished for answer in answers])
        print(f"{name}: {' | '.join(shown)} | {length:.1f} words, {cut:.0%} cut", flush=True)


if __name__ == "__main__":
    main()
