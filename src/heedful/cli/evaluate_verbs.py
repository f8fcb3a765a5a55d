"""``heedful evaluate``: score stored samples, analyse people's votes, and plan the size of a study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from heedful.cli.benchmark_verb import EvaluateBenchmarks
from heedful.cli.comparison_verb import EvaluatePage
from heedful.cli.options import DatabaseOption, Flag, controls_of, optional, say, subcommand
from heedful.cli.people_verb import EvaluatePeople
from heedful.cli.reward_verb import EvaluateReward
from heedful.errors import ConfigError, DataError

if TYPE_CHECKING:
    from heedful.evaluate.scoring import SampleScores
    from heedful.evaluate.scoring.samples import Rule
    from heedful.evaluate.votes import Votes

_RULES: dict[str, Rule] = {"any": "max over alternatives", "all": "all parts required", "first": "first"}
_NO_ANSWER: dict[str, tuple[str, ...]] = {"squad_v2": ("Not in background.",)}
"""What the paper's prompts tell a model to say when there is no answer."""
_JSON = optional("FILE", "Also write the numbers to this file, as JSON.")


@dataclass(frozen=True, kw_only=True)
class EvaluateScore:
    """Score stored samples with the official rules of a task.

    - squad_v2, drop, quac; rouge and rouge_stemmed for summaries; bleu for
      translations; accuracy (equal text); choice, entropy (log-probabilities).
    - Samples of several models or prompts are scored separately if columns
      such as model_type or prompt_type tell them apart.
    - Rows that cannot be scored are counted and listed, and left out of means.
    - For example: heedful evaluate score squad_v2 samples.csv \\
        --column response=sample --column references=ref_text
    """

    task: Annotated[
        Literal["squad_v2", "drop", "quac", "rouge", "rouge_stemmed", "bleu", "accuracy", "choice", "entropy"],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="TASK"),
    ]
    """The rule: squad_v2, drop, quac, rouge, rouge_stemmed, bleu, accuracy, choice or entropy."""
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The samples: .csv, .tsv, .jsonl, .json; each also with .gz."""
    column: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, optional("USE=COLUMN")] = ()
    """Which column holds what (else columns with the usual names). USE: response, references, logprobs, answer, cluster or
    groups."""
    references: Annotated[Literal["any", "all", "first"] | None, optional("{any,all,first}")] = None
    """How to treat several references: any one is right, all are parts of one answer, or only the first counts."""
    separator: Annotated[str | None, optional("TEXT")] = None
    """Text between the references in one cell, such as "|"; "" never splits (else "|" in columns named ref_text)."""
    no_answer: Annotated[tuple[str, ...] | None, tyro.conf.UseAppendAction, optional("TEXT")] = None
    """A response or reference that says "there is no answer" (else for squad_v2: Not in background.)."""
    json: Annotated[Path | None, _JSON] = None

    def run(self, console: Console) -> None:
        """Print the means and what was not scored. Raises ConfigError, MissingError, DataError (also if nothing was scored)."""
        from heedful.evaluate.results_file import save_numbers
        from heedful.evaluate.scoring import score_samples
        from heedful.evaluate.scoring.column_map import columns_of_file, in_words

        columns = columns_of_file(self.file, self.task, self.column, self.separator)
        no_answer = _NO_ANSWER.get(self.task, ()) if self.no_answer is None else self.no_answer
        rule = None if self.references is None else _RULES[self.references]
        scores = score_samples(self.file, self.task, columns, rule=rule, no_answer=no_answer)
        said = Console()
        say(said, in_words(columns, self.task))
        if no_answer:
            say(said, f"no answer: {', '.join(map(repr, no_answer))}")
        say(said, scores.summary())
        if self.json is not None:
            save_numbers(self.json, _scores_as_json(scores, no_answer))
            say(console, f"numbers: {self.json}")
        if scores.num_rows and not scores.num_scored:
            raise DataError(
                "no row could be scored",
                expected=f"rows with the columns that {self.task} needs",
                got=f"{scores.num_rows:,} rows; the first: {scores.unscored[0].reason}",
                where=f"{self.file}:{scores.unscored[0].line}",
                next_step="look at the reasons above; name other columns with --column",
            )


@dataclass(frozen=True, kw_only=True)
class EvaluateVotes:
    """Compare models from people's votes: win rates and scores, with intervals.

    - FILE: a table of votes (winner and loser, or model_a, model_b and winner;
      labeler and prompt if known), or records of rankings or ratings.
    - --project: the answers in a project's labeling database and records.
    - Report the two-way interval: it holds for other prompts and labelers.
    - For example: heedful evaluate votes votes.csv --baseline sft
    """

    file: Annotated[Path | None, tyro.conf.Positional, optional("[FILE]")] = None
    """The votes: .csv, .tsv, .jsonl, .json."""
    project: Annotated[Path | None, optional("PROJECT")] = None
    """A project's folder, instead of a file."""
    database: DatabaseOption = None
    column: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, optional("USE=COLUMN")] = ()
    """Which column holds what. USE: winner, loser, tie, model_a, model_b, prompt, labeler, response_a or response_b."""
    baseline: Annotated[str | None, optional("MODEL")] = None
    """Compare all models with this one only."""
    length_control: Flag = False
    """Also score the models at equal length of their responses."""
    style_control: Flag = False
    """Also score the models at equal length, list items, headers, bold text and code blocks."""
    answers: Annotated[Literal["rankings", "ratings"] | None, optional("{rankings,ratings}")] = None
    """Which records are votes (else rankings, or ratings if there are none)."""
    phase: Literal["evaluation", "training"] = "evaluation"
    """Only the records of this phase."""
    group: Annotated[Literal["training", "held_out", "user"] | None, optional("{training,held_out,user}")] = None
    """Only the records of this group: training labelers, held-out labelers, or users of the playground."""
    batch: Annotated[str | None, optional("NAME")] = None
    """Only the records of this batch of tasks."""
    confidence: float = 0.95
    """Confidence level of all intervals."""
    json: Annotated[Path | None, _JSON] = None

    def run(self, console: Console) -> None:
        """Print the tables. Raises ConfigError, MissingError, DataError, StorageError."""
        from heedful.evaluate import model_comparison
        from heedful.evaluate.results_file import save_numbers

        votes = self._votes()
        say(Console(), votes.summary())
        comparison = model_comparison.compare_models(
            votes,
            baseline=self.baseline,
            controls=controls_of(length=self.length_control, style=self.style_control),
            confidence=self.confidence,
        )
        say(Console(), model_comparison.in_words(comparison))
        if self.json is not None:
            save_numbers(self.json, model_comparison.as_numbers(comparison, votes))
            say(console, f"numbers: {self.json}")

    def _votes(self) -> Votes:
        from heedful.evaluate.vote_sources import Selection, votes_of_file, votes_of_project

        selection = Selection(answers=self.answers, phase=self.phase, group=self.group, batch=self.batch)
        if (self.file is None) == (self.project is None and self.database is None):
            raise ConfigError(
                "votes come from one place",
                expected="a file, or --project (with --database if it is elsewhere)",
                got="neither" if self.file is None else "both",
                next_step="heedful evaluate votes votes.csv, or heedful evaluate votes --project FOLDER",
            )
        if self.file is not None:
            return votes_of_file(self.file, selection, _named(self.column))
        if self.column:
            raise ConfigError("a project's records have no columns to name", got=f"--column {self.column[0]}")
        return votes_of_project(self.project or Path(), self.database, selection)


@dataclass(frozen=True, kw_only=True)
class EvaluatePower:
    """Show how many comparisons it takes to find a difference, before you pay for them.

    - Two models are equal at a win rate of 50 %. A difference of 0.05 is a win
      rate of 55 %.
    - The more labelers differ, the less more prompts can help.
    - If you have earlier votes, --from takes ties and variances from them.
    - For example: heedful evaluate power --difference 0.05 --labelers 20
    """

    difference: Annotated[tuple[float, ...], optional("X [X ...]")] = (0.03, 0.05, 0.1)
    """Differences to plan for: how far the win rate is from 50 % (else 0.03, 0.05 and 0.1)."""
    labelers: int = 40
    """Number of labelers; the paper had about 40."""
    labelers_per_prompt: int = 1
    """How many of those labelers compare the models on each prompt."""
    tie_rate: Annotated[float | None, optional("SHARE")] = None
    """Share of comparisons that are ties (else as in --from, else 0.1)."""
    prompt_share: Annotated[float | None, optional("SHARE")] = None
    """Share of the variance that comes from prompts (else as in --from, else 0.2)."""
    labeler_share: Annotated[float | None, optional("SHARE")] = None
    """Share of the variance that comes from labelers (else as in --from, else 0.03)."""
    power: float = 0.8
    """How likely the study must be to find the difference."""
    confidence: float = 0.95
    """Confidence level of the interval that must exclude 50 %."""
    earlier: Annotated[
        Path | None,
        tyro.conf.arg(
            name="from",
            metavar="FILE",
            help="Votes of an earlier study: ties and variances of the pair of models with the most votes.",
            help_behavior_hint="",
        ),
    ] = None
    json: Annotated[Path | None, _JSON] = None

    def run(self, console: Console) -> None:
        """Print a row for each difference. Raises ConfigError, MissingError, DataError."""
        from heedful.evaluate import study_plan
        from heedful.evaluate.results_file import save_numbers
        from heedful.evaluate.vote_sources import Selection, votes_of_file
        from heedful.statistics import VarianceShares

        shares, tie_rate = study_plan.USUAL_SHARES, study_plan.USUAL_TIE_RATE
        if self.earlier is not None:
            found = study_plan.earlier_study(votes_of_file(self.earlier, Selection(), {}).votes)
            shares, tie_rate = found.shares, found.tie_rate
            say(Console(), f"from {found.num_votes:,} votes on {found.model} against {found.other} in {self.earlier.name}")
        setting = study_plan.Setting(
            num_labelers=self.labelers,
            labelers_per_prompt=self.labelers_per_prompt,
            tie_rate=tie_rate if self.tie_rate is None else self.tie_rate,
            shares=VarianceShares(
                prompt=shares.prompt if self.prompt_share is None else self.prompt_share,
                labeler=shares.labeler if self.labeler_share is None else self.labeler_share,
            ),
            power=self.power,
            confidence=self.confidence,
        )
        answers = study_plan.plan_studies(self.difference, setting)
        say(Console(), study_plan.in_words(answers, setting))
        if self.json is not None:
            save_numbers(self.json, study_plan.as_numbers(answers, setting))
            say(console, f"numbers: {self.json}")


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Let people compare models, measure them on benchmarks, read votes, plan studies.

    - people  labelers compare models on held-out owners' prompts
    - benchmarks  models on public benchmarks, in the paper's formats
    - score  stored samples of a benchmark, with the official rules
    - votes  people's comparisons: win rates and scores, with intervals
    - power  how many comparisons it takes to find a difference
    - reward  how often a reward model orders responses as labelers do
    - page    one page that compares models, with all answers side by side
    - More on each: `heedful evaluate score --help`, and so on.
    """

    action: (
        Annotated[EvaluatePeople, subcommand(EvaluatePeople, "people")]
        | Annotated[EvaluateBenchmarks, subcommand(EvaluateBenchmarks, "benchmarks")]
        | Annotated[EvaluateScore, subcommand(EvaluateScore, "score")]
        | Annotated[EvaluateVotes, subcommand(EvaluateVotes, "votes")]
        | Annotated[EvaluatePower, subcommand(EvaluatePower, "power")]
        | Annotated[EvaluateReward, subcommand(EvaluateReward, "reward")]
        | Annotated[EvaluatePage, subcommand(EvaluatePage, "page")]
    )

    def run(self, console: Console) -> None:
        """Do what was asked."""
        self.action.run(console)


def _named(entries: tuple[str, ...]) -> dict[str, str]:
    """The columns that ``--column`` names, by use. Raises ConfigError."""
    for entry in entries:
        if "=" not in entry:
            raise ConfigError("this names no column", expected="USE=COLUMN, such as winner=preferred", got=repr(entry))
    return {use: column for use, _, column in (entry.partition("=") for entry in entries)}


def _scores_as_json(scores: SampleScores, no_answer: tuple[str, ...]) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "file": scores.file,
        "task": scores.metric,
        "references": scores.rule,
        "columns": asdict(scores.columns),
        "no_answer": list(no_answer),
        "rows": scores.num_rows,
        "scored": scores.num_scored,
        "means": {name: asdict(mean) for name, mean in scores.means.items()},
        "groups": [
            {
                **dict(zip(scores.columns.groups, group.cells, strict=True)),
                "scored": group.num_scored,
                "not_scored": group.num_unscored,
                "means": {name: asdict(mean) for name, mean in group.means.items()},
            }
            for group in scores.groups
        ],
        "not_scored": [asdict(row) for row in scores.unscored],
        "notes": list(scores.notes),
    }
