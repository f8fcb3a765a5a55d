"""Turns a table of votes, our ratings or our rankings into comparisons of models: columns for ``heedful.statistics``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from heedful.errors import ConfigError
from heedful.evaluate.foreign_tables import table_rows
from heedful.records import Ranking, Rating, Response
from heedful.statistics.text_style import STYLE_FEATURES, TextStyle, text_style

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
    lengths: tuple[float, float] | None = None
    """Characters of both responses, if they are known."""
    styles: tuple[TextStyle, TextStyle] | None = None
    """Markup of both responses, if it is known."""


@dataclass(frozen=True, slots=True)
class BadVote:
    """A row, rating or pair of a ranking that gave no vote: its place, and the reason."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """The votes that were read, and the rows that gave none."""

    votes: tuple[Vote, ...]
    bad: tuple[BadVote, ...]
    notes: tuple[str, ...] = ()

    def columns(self) -> tuple[list[str], list[str], list[float], list[str], list[str]]:
        """Return model_a, model_b, outcome, prompt, labeler: the arguments of ``bradley_terry``, in order."""
        return (
            [vote.model_a for vote in self.votes],
            [vote.model_b for vote in self.votes],
            [vote.outcome for vote in self.votes],
            [vote.prompt for vote in self.votes],
            [vote.labeler for vote in self.votes],
        )

    def against(self, model: str, other: str) -> tuple[list[float], list[str], list[str]]:
        """Return outcomes of ``model`` against ``other``, prompts and labelers: the arguments of ``two_way_win_rate``."""
        found = [
            (vote.outcome if vote.model_a == model else 1 - vote.outcome, vote.prompt, vote.labeler)
            for vote in self.votes
            if {vote.model_a, vote.model_b} == {model, other}
        ]
        return [one[0] for one in found], [one[1] for one in found], [one[2] for one in found]

    def paired(self, first: str, second: str, baseline: str) -> tuple[list[float], list[float], list[str], list[str]]:
        """Return two models' outcomes against the baseline, for prompts on which the same labeler judged both.

        These are the arguments of ``two_way_difference``. If a labeler compared a model with the baseline more than once on a
        prompt, the mean counts.
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
        """Describe the votes in a few lines."""
        models = {model for vote in self.votes for model in (vote.model_a, vote.model_b)}
        prompts, labelers = {vote.prompt for vote in self.votes}, {vote.labeler for vote in self.votes}
        ties = sum(vote.outcome == 0.5 for vote in self.votes)
        lines = [
            f"{len(self.votes):,} votes ({ties:,} ties) on {len(models):,} models, {len(prompts):,} prompts, "
            f"by {len(labelers):,} labelers; {len(self.bad):,} rows gave none"
        ]
        for reason, count in Counter(bad.reason for bad in self.bad).most_common(_SHOWN):
            places = [bad.where for bad in self.bad if bad.reason == reason][:_SHOWN]
            lines.append(f"  {count} x {reason} ({', '.join(places)}{', ...' if count > len(places) else ''})")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteColumns:
    """Which column of a table holds what. Either ``winner`` and ``loser`` name models, or ``winner`` says which of a and b won.

    - With ``loser``: ``winner`` and ``loser`` are models; ``tie`` (optional) says yes if neither is better.
    - With ``model_a`` and ``model_b``: ``winner`` is a model's name, or a/b, left/right, 1/2, tie, draw, both bad.
    """

    winner: str = "winner"
    loser: str | None = None
    tie: str | None = None
    model_a: str | None = None
    model_b: str | None = None
    prompt: str | None = None
    """Without it, or if a cell is empty, the row counts as its own prompt."""
    labeler: str | None = None
    """Without it, all rows count as by one unknown labeler, and intervals over labelers are unknown."""
    response_a: str | None = None
    """The response of ``model_a``, or of the winner: a text or chat messages; a number if "length" is in its name."""
    response_b: str | None = None
    """The response of ``model_b``, or of the loser."""


_USUAL: Mapping[str, tuple[str, ...]] = {
    "winner": ("winner", "preference", "label", "outcome", "vote"),
    "loser": ("loser",),
    "tie": ("tie", "is_tie", "draw"),
    "model_a": ("model_a", "left", "model_1", "model1", "a"),
    "model_b": ("model_b", "right", "model_2", "model2", "b"),
    "prompt": ("prompt_id", "question_id", "prompt", "task", "instruction_id", "question"),
    "labeler": ("labeler", "worker", "judge", "annotator", "user", "rater"),
    "response_a": ("response_a", "output_a", "answer_a", "conversation_a", "length_a", "winner_response", "winner_length"),
    "response_b": ("response_b", "output_b", "answer_b", "conversation_b", "length_b", "loser_response", "loser_length"),
}


def votes_from_table(path: str | Path, columns: VoteColumns | None = None, *, named: Mapping[str, str] | None = None) -> Votes:
    """Read votes from a CSV, TSV or JSONL file. Without ``columns``, the first readable row is searched for the usual names.

    ``named``: columns by what they hold (a field of ``VoteColumns``), instead of the usual ones. Rows that give no vote go into
    ``bad``. Raises ConfigError if a named column or the usual ones are not there, MissingError or DataError for a file that
    cannot be read at all.
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
            columns = _usual_columns(cells, path, named or {})
        try:
            votes.append(_vote(cells, columns, where))
        except _NoVote as reason:
            bad.append(BadVote(where, str(reason)))
    return Votes(votes=tuple(votes), bad=tuple(bad), notes=_notes(columns))


def votes_from_rankings(rankings: Iterable[Ranking], responses: Mapping[str, Response]) -> Votes:
    """Make a vote of every pair of responses in a ranking. Pairs of the same or an unknown model go into ``bad``."""
    votes: list[Vote] = []
    bad: list[BadVote] = []
    for ranking in rankings:
        for (one, rank), (other, other_rank) in combinations(zip(ranking.response_ids, ranking.ranks, strict=True), 2):
            where = f"ranking {ranking.id}"
            try:
                better_by = float(other_rank - rank)
                votes.append(_of_responses(ranking.prompt_id, ranking.labeler, one, other, responses, better_by))
            except _NoVote as reason:
                bad.append(BadVote(where, str(reason)))
    return Votes(votes=tuple(votes), bad=tuple(bad))


def votes_from_ratings(ratings: Iterable[Rating], responses: Mapping[str, Response]) -> Votes:
    """Make a vote of every two ratings of a prompt by the same labeler: the higher quality wins, equal is a tie.

    If a labeler rated a response twice, the later rating counts. Ratings without a counterpart go into ``bad``.
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
                better_by = float(one.overall - other.overall)
                votes.append(_of_responses(prompt, labeler, one.response_id, other.response_id, responses, better_by))
            except _NoVote as reason:
                bad.append(BadVote(f"ratings {one.id} and {other.id}", str(reason)))
    return Votes(votes=tuple(votes), bad=tuple(bad))


class _NoVote(Exception):
    """The row gives no vote; ``str()`` says why."""


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Length and markup of two responses, if known."""

    lengths: tuple[float, float] | None
    styles: tuple[TextStyle, TextStyle] | None


def _between(prompt: str, labeler: str, model_a: str, model_b: str, better_by: float, sizes: _Sizes) -> Vote:
    if model_a == model_b:
        raise _NoVote("both responses are the same model's")
    outcome = 0.5 if better_by == 0 else float(better_by > 0)
    return Vote(
        prompt=prompt,
        labeler=labeler,
        model_a=model_a,
        model_b=model_b,
        outcome=outcome,
        lengths=sizes.lengths,
        styles=sizes.styles,
    )


def _of_responses(prompt: str, labeler: str, one: str, other: str, responses: Mapping[str, Response], better_by: float) -> Vote:
    """Make the vote between two responses, given their ids."""
    first, second = responses.get(one), responses.get(other)
    if first is None or second is None:
        raise _NoVote("a response that is not there")
    if first.model is None or second.model is None:
        raise _NoVote("a response without a model")
    return _between(prompt, labeler, first.model, second.model, better_by, _sizes_of_texts([first.text], [second.text]))


def _usual_columns(cells: Mapping[str, Any], path: str | Path, named: Mapping[str, str]) -> VoteColumns:
    for use, name in named.items():
        if use not in _USUAL or name not in cells:
            what = f"{Path(path).name} has no column {name!r}" if use in _USUAL else f"nothing in a vote is called {use!r}"
            expected = ", ".join(map(repr, cells)) if use in _USUAL else ", ".join(_USUAL)
            raise ConfigError(what, expected=f"one of {expected}", got=f"{use}={name}", where=path)
    lower = {name.strip().lower(): name for name in cells}
    found = {use: next((lower[name] for name in names if name in lower), None) for use, names in _USUAL.items()}
    found |= dict(named)
    if found["winner"] is None or (found["loser"] is None and (found["model_a"] is None or found["model_b"] is None)):
        raise ConfigError(
            f"{Path(path).name} has none of the usual columns of votes",
            expected="winner and loser, or model_a, model_b and winner",
            got=", ".join(cells),
            where=path,
            next_step="name them: --column winner=NAME, or VoteColumns(winner=..., loser=...)",
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
    return _between(prompt or where, labeler, model_a, model_b, better_by, _sizes(cells, columns))


def _sizes_of_texts(first: Sequence[str], second: Sequence[str]) -> _Sizes:
    """Measure two responses, each of one or more turns."""
    lengths = (float(sum(map(len, first))), float(sum(map(len, second))))
    return _Sizes(lengths, (text_style("\n".join(first)), text_style("\n".join(second))))


def _sizes(cells: Mapping[str, Any], columns: VoteColumns) -> _Sizes:
    """Return lengths and markup of both responses, from their texts or from columns with the numbers; None if unknown."""
    counted = _counted_styles(cells)
    if columns.response_a is None or columns.response_b is None:
        return _Sizes(None, counted)
    names = (columns.response_a, columns.response_b)
    texts = [None if "length" in name.lower() else _turns(cells.get(name)) for name in names]
    if texts[0] is not None and texts[1] is not None:
        return _sizes_of_texts(texts[0], texts[1])
    lengths = [
        _number(cells.get(name)) if "length" in name.lower() else None if text is None else float(sum(map(len, text)))
        for name, text in zip(names, texts, strict=True)
    ]
    return _Sizes(None if lengths[0] is None or lengths[1] is None else (lengths[0], lengths[1]), counted)


def _counted_styles(cells: Mapping[str, Any]) -> tuple[TextStyle, TextStyle] | None:
    """Read markup counts from columns such as lists_a and lists_b; None unless all are there."""
    found: list[TextStyle] = []
    for side in ("a", "b"):
        counts = [_number(cells.get(f"{feature}_{side}")) for feature in STYLE_FEATURES]
        known = [count for count in counts if count is not None]
        if len(known) < len(counts):
            return None
        found.append(TextStyle(*known))
    return found[0], found[1]


def _number(cell: object) -> float | None:
    try:
        number = float(str(cell))
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None


def _turns(cell: object) -> list[str] | None:
    """Return a response's turns: a text, or what the assistant says in chat messages."""
    if not isinstance(cell, list):
        return None if cell is None else [str(cell)]
    messages: list[Any] = cell
    texts = [one.get("content") for one in messages if isinstance(one, dict) and one.get("role") == "assistant"]
    return [str(text) for text in texts] or None


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
    """Return a cell as text without surrounding spaces; numbers and truth values become text."""
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
