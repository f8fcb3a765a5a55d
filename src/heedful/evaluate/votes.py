"""Comparisons of models as columns for ``heedful.statistics``: from a table of votes, our ratings or our rankings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from heedful.errors import ConfigError
from heedful.evaluate.foreign_tables import table_rows
from heedful.records import Ranking, Rating, Response

_SHOWN = 5

_LEFT = ("a", "model_a", "left", "1", "win", "response_a", "assistant_a")
_RIGHT = ("b", "model_b", "right", "2", "loss", "response_b", "assistant_b")
_TIE = ("tie", "ties", "draw", "both", "equal", "same", "0", "tie (bothbad)", "both_bad", "bothbad")
_YES = ("true", "yes", "1", "tie", "draw")
_NO = ("false", "no", "0", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One labeler's comparison of two models on one prompt: 1 if ``model_a`` is preferred, 0.5 a tie, else 0."""

    prompt: str
    labeler: str
    model_a: str
    model_b: str
    outcome: float


@dataclass(frozen=True, slots=True)
class BadVote:
    """A row, rating or ranking that gave no vote: where it is, and why."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """What was read, and what was not."""

    votes: tuple[Vote, ...]
    bad: tuple[BadVote, ...]
    notes: tuple[str, ...] = ()

    def columns(self) -> tuple[list[str], list[str], list[float], list[str], list[str]]:
        """model_a, model_b, outcome, prompt, labeler: what ``bradley_terry`` takes, in its order."""
        return (
            [vote.model_a for vote in self.votes],
            [vote.model_b for vote in self.votes],
            [vote.outcome for vote in self.votes],
            [vote.prompt for vote in self.votes],
            [vote.labeler for vote in self.votes],
        )

    def against(self, model: str, other: str) -> tuple[list[float], list[str], list[str]]:
        """Outcomes of ``model`` against ``other`` with prompts and labelers: what ``two_way_win_rate`` takes."""
        found = [
            (vote.outcome if vote.model_a == model else 1 - vote.outcome, vote.prompt, vote.labeler)
            for vote in self.votes
            if {vote.model_a, vote.model_b} == {model, other}
        ]
        return [one[0] for one in found], [one[1] for one in found], [one[2] for one in found]

    def paired(self, first: str, second: str, baseline: str) -> tuple[list[float], list[float], list[str], list[str]]:
        """Outcomes of two models against the same baseline where the same labeler judged both on the same prompt.

        The arguments of ``two_way_difference``. If a labeler compared a model with the baseline more than once on a prompt, the
        mean counts.
        """
        ours, theirs = self._means_against(first, baseline), self._means_against(second, baseline)
        shared = [cell for cell in ours if cell in theirs]
        return (
            [ours[cell] for cell in shared],
            [theirs[cell] for cell in shared],
            [prompt for prompt, _ in shared],
            [labeler for _, labeler in shared],
        )

    def _means_against(self, model: str, baseline: str) -> dict[tuple[str, str], float]:
        cells: dict[tuple[str, str], list[float]] = {}
        for outcome, prompt, labeler in zip(*self.against(model, baseline), strict=True):
            cells.setdefault((prompt, labeler), []).append(outcome)
        return {cell: sum(outcomes) / len(outcomes) for cell, outcomes in cells.items()}

    def summary(self) -> str:
        """A few lines for people."""
        models = {model for vote in self.votes for model in (vote.model_a, vote.model_b)}
        ties = sum(vote.outcome == 0.5 for vote in self.votes)
        lines = [
            f"{len(self.votes)} votes ({ties} ties) on {len(models)} models, {len({v.prompt for v in self.votes})} prompts, "
            f"by {len({v.labeler for v in self.votes})} labelers; {len(self.bad)} rows gave none"
        ]
        for reason, count in Counter(bad.reason for bad in self.bad).most_common(_SHOWN):
            places = [bad.where for bad in self.bad if bad.reason == reason][:_SHOWN]
            lines.append(f"  {count} x {reason} ({', '.join(places)}{', ...' if count > len(places) else ''})")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteColumns:
    """Which column of a table holds what. Either ``winner`` and ``loser`` name models, or ``winner`` says which of a and b won.

    - With ``loser``: ``winner`` and ``loser`` are models; ``tie`` (if there) says yes where neither is better.
    - With ``model_a`` and ``model_b``: ``winner`` is a model's name, or a/b, left/right, 1/2, tie, draw, both bad.
    """

    winner: str = "winner"
    loser: str | None = None
    tie: str | None = None
    model_a: str | None = None
    model_b: str | None = None
    prompt: str | None = None
    """Without it, or in an empty cell, every row is a prompt of its own."""
    labeler: str | None = None
    """Without it all rows are by one unknown labeler, and intervals over labelers are unknown."""


_USUAL: Mapping[str, tuple[str, ...]] = {
    "winner": ("winner", "preference", "label", "outcome", "vote"),
    "loser": ("loser",),
    "tie": ("tie", "is_tie", "draw"),
    "model_a": ("model_a", "left", "model_1", "model1", "a"),
    "model_b": ("model_b", "right", "model_2", "model2", "b"),
    "prompt": ("prompt_id", "question_id", "prompt", "task", "instruction_id", "question"),
    "labeler": ("labeler", "worker", "judge", "annotator", "user", "rater"),
}


def votes_from_table(path: str | Path, columns: VoteColumns | None = None) -> Votes:
    """Votes of a CSV, TSV or JSONL file. Without ``columns`` the usual names are looked for in the first row that can be read.

    Every other row is named in ``bad``. Raises ConfigError if the usual names are not there, MissingError or DataError for a
    file that cannot be read at all.
    """
    votes: list[Vote] = []
    bad: list[BadVote] = []
    for row in table_rows(path):
        where = f"line {row.line}"
        if row.problem is not None:
            bad.append(BadVote(where, row.problem))
            continue
        cells: Any = row.value
        if columns is None:
            columns = _usual_columns(cells, path)
        try:
            votes.append(_vote(cells, columns, where))
        except _NoVote as reason:
            bad.append(BadVote(where, str(reason)))
    return Votes(votes=tuple(votes), bad=tuple(bad), notes=_notes(columns))


def votes_from_rankings(rankings: Iterable[Ranking], responses: Mapping[str, Response]) -> Votes:
    """Every pair of responses that a ranking holds, by their models; pairs of one model or of none are named in ``bad``."""
    votes: list[Vote] = []
    bad: list[BadVote] = []
    for ranking in rankings:
        for (one, rank), (other, other_rank) in combinations(zip(ranking.response_ids, ranking.ranks, strict=True), 2):
            where = f"ranking {ranking.id}"
            try:
                a, b = _model_of(one, responses), _model_of(other, responses)
                votes.append(_between(ranking.prompt_id, ranking.labeler, a, b, float(other_rank - rank)))
            except _NoVote as reason:
                bad.append(BadVote(where, str(reason)))
    return Votes(votes=tuple(votes), bad=tuple(bad))


def votes_from_ratings(ratings: Iterable[Rating], responses: Mapping[str, Response]) -> Votes:
    """Every two ratings of one prompt by one labeler, by the responses' models: the higher quality wins, equal is a tie.

    If a labeler rated a response twice, the later rating counts. Ratings without a counterpart are named in ``bad``.
    """
    cells: dict[tuple[str, str], dict[str, Rating]] = {}
    for rating in ratings:
        cells.setdefault((rating.prompt_id, rating.labeler), {})[rating.response_id] = rating
    votes: list[Vote] = []
    bad: list[BadVote] = []
    for (prompt, labeler), rated in cells.items():
        if len(rated) == 1:
            bad.append(BadVote(f"rating {next(iter(rated.values())).id}", "no other response of the prompt by this labeler"))
        for one, other in combinations(rated.values(), 2):
            try:
                a, b = _model_of(one.response_id, responses), _model_of(other.response_id, responses)
                votes.append(_between(prompt, labeler, a, b, float(one.overall - other.overall)))
            except _NoVote as reason:
                bad.append(BadVote(f"ratings {one.id} and {other.id}", str(reason)))
    return Votes(votes=tuple(votes), bad=tuple(bad))


class _NoVote(Exception):
    """The row gives no vote; ``str()`` says why."""


def _between(prompt: str, labeler: str, model_a: str, model_b: str, better_by: float) -> Vote:
    if model_a == model_b:
        raise _NoVote("both responses are the same model's")
    outcome = 0.5 if better_by == 0 else float(better_by > 0)
    return Vote(prompt=prompt, labeler=labeler, model_a=model_a, model_b=model_b, outcome=outcome)


def _model_of(response_id: str, responses: Mapping[str, Response]) -> str:
    response = responses.get(response_id)
    if response is None or response.model is None:
        raise _NoVote("a response that is not there" if response is None else "a response without a model")
    return response.model


def _usual_columns(cells: Mapping[str, Any], path: str | Path) -> VoteColumns:
    lower = {name.strip().lower(): name for name in cells}
    found = {use: next((lower[name] for name in names if name in lower), None) for use, names in _USUAL.items()}
    if found["winner"] is None or (found["loser"] is None and (found["model_a"] is None or found["model_b"] is None)):
        raise ConfigError(
            f"{Path(path).name} has none of the usual columns of votes",
            expected="winner and loser, or model_a, model_b and winner",
            got=", ".join(cells),
            where=path,
            next_step="name the columns: VoteColumns(winner=..., loser=...)",
        )
    return VoteColumns(**{use: name for use, name in found.items() if name is not None})


def _vote(cells: Mapping[str, Any], columns: VoteColumns, where: str) -> Vote:
    winner = _cell(cells, columns.winner)
    if columns.loser is not None:
        model_a, model_b = winner, _cell(cells, columns.loser)
        tie = columns.tie is not None and _says_yes(cells, columns.tie)
        better_by = 0.0 if tie else 1.0
    elif columns.model_a is not None and columns.model_b is not None:
        model_a, model_b = _cell(cells, columns.model_a), _cell(cells, columns.model_b)
        better_by = _which(winner, model_a, model_b)
    else:
        raise ConfigError("votes need two models", expected="loser, or model_a and model_b", got=str(columns))
    if not model_a or not model_b:
        raise _NoVote("a model without a name")
    prompt = _cell(cells, columns.prompt) if columns.prompt is not None else ""
    labeler = _cell(cells, columns.labeler) if columns.labeler is not None else "unknown"
    if not labeler:
        raise _NoVote(f"column {columns.labeler!r} is empty")
    return _between(prompt or where, labeler, model_a, model_b, better_by)


def _which(winner: str, model_a: str, model_b: str) -> float:
    if winner in (model_a, model_b):
        return 1.0 if winner == model_a else -1.0
    said = winner.lower()
    for options, better_by in ((_LEFT, 1.0), (_RIGHT, -1.0), (_TIE, 0.0)):
        if said in options:
            return better_by
    raise _NoVote(f"winner {winner!r} is neither a model of the row, nor a, b or tie")


def _says_yes(cells: Mapping[str, Any], name: str) -> bool:
    said = _cell(cells, name).lower()
    if said not in (*_YES, *_NO):
        raise _NoVote(f"column {name!r} is {said!r} instead of yes or no")
    return said in _YES


def _cell(cells: Mapping[str, Any], name: str) -> str:
    """A cell as text without spaces around it; numbers and truth values as text."""
    if name not in cells:
        raise _NoVote(f"no column {name!r}")
    value = cells[name]
    if value is None or isinstance(value, (dict, list)):
        raise _NoVote(f"column {name!r} holds {type(value).__name__} instead of text")
    return str(value).strip()


def _notes(columns: VoteColumns | None) -> tuple[str, ...]:
    if columns is None:
        return ("no row could be read",)
    notes: Sequence[tuple[str | None, str]] = (
        (columns.prompt, "no column names the prompt: each row counts as a prompt of its own"),
        (columns.labeler, "no column names the labeler: intervals over labelers are unknown"),
    )
    return tuple([note for name, note in notes if name is None])
