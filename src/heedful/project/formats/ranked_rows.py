"""A prompt with several responses in one row, with ranks or ratings if the row has any."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from heedful.conversation import prompt_turns
from heedful.project.formats.row_keys import USER_KEYS, asked, given_key, unused_keys, user_of
from heedful.project.formats.rows import BadRow, Draft, an_object, new_prompt, new_ranking, new_response, text_of
from heedful.project.structure import shown
from heedful.records import Prompt, Response

SAMPLE = '{"prompt": "…", "responses": ["…", "…", "…"], "models": ["a", "b", "c"], "ratings": [6, 3, 3]}, or "ranks"'

NO_RANKING = "prompts with fewer than two ranked or rated responses: no ranking"

_LISTS = ("responses", "completions", "outputs", "answers", "generations", "candidates")
_TEXTS = ("text", "response", "content", "output", "completion", "answer")
_MODELS = ("models", "model_names", "model")
_RATINGS = ("ratings", "scores", "rating", "score")
_RANKS = ("ranks", "rank")
_LABELERS = ("labeler", "annotator", "worker")
_NUMBERED = re.compile(r"(?P<what>response|completion|output|answer|model|rating|score|rank)(?P<number>_?\d+|_[a-z])")
_SAME = {"completion": "response", "output": "response", "answer": "response", "score": "rating"}
"""Synonyms in the names of numbered columns."""
_BARE = ("response", "completion", "output", "answer")
_JUDGING = frozenset(
    ("winner", "preferred", "preference", "ranking", "order", "choice", "better", "best", "label", "chosen", "rejected")
)


class Given(NamedTuple):
    """A response as a row gives it."""

    text: str
    model: str | None = None
    rank: float | None = None
    """The best response has the lowest rank."""
    rating: float | None = None
    """The best response has the highest rating."""


def read_responses(row: object, labeler: str | None) -> Draft:
    """``prompt`` and ``responses``: a list of texts, or of objects with ``text``, ``model``, and ``rank`` or ``rating``.

    ``models``, ``ratings`` and ``ranks`` may also be lists of their own. A table has numbered columns instead: ``response_1``,
    ``model_1``, ``rating_1``, ``response_2``... Ratings are used only where there are no ranks: the highest is rank 1, equal
    ratings are a tie. Without either, the responses are imported without a ranking. Raises BadRow.
    """
    row = an_object(row)
    question = asked(row)
    if question is None:
        raise BadRow("no key 'prompt', or it is empty")
    _refuse_judging(row)
    listed = given_key(row, _LISTS)
    given, used, notes = _listed(row, listed) if listed else _numbered(row)
    if not given:
        raise BadRow("no key 'responses'")
    question = replace(question, turns=prompt_turns(question.turns), exact=False)  # no TRL row: the answer has its own line
    prompt = new_prompt(question.turns, user=user_of(row))
    answers = [answer._replace(text=question.answer(answer.text)) for answer in given]
    who = given_key(row, _LABELERS)
    draft = ranked(prompt, answers, (text_of(row, who) if who else labeler) or "responses")
    draft.notes += notes + unused_keys(row, (*question.used, *used, *USER_KEYS, *_LABELERS))
    return draft


def _refuse_judging(row: Mapping[str, Any]) -> None:
    for key, value in row.items():
        if _JUDGING.intersection(key.lower().split("_")) and value not in (None, "", [], {}):
            raise BadRow(f"the key {key!r} may say which response is better, and is not read: give 'ranks' or 'ratings'")


def _listed(row: Mapping[str, Any], key: str) -> tuple[list[Given], list[str], list[str]]:
    """The responses of a list, the keys that were read, and notes on keys of the responses that were not read."""
    responses = row[key]
    if not isinstance(responses, list):
        raise BadRow(f"{key!r} should be a list and is {shown(responses)}")
    keys = [given_key(row, names) for names in (_MODELS, _RANKS, _RATINGS)]
    columns: list[list[Any]] = []
    for name in keys:
        values = row[name] if name is not None else [None] * len(responses)
        if not isinstance(values, list) or len(values) != len(responses):
            raise BadRow(f"{key!r} has {len(responses)} elements, and {name!r} is not a list of as many: {shown(values)}")
        columns.append(values)
    given: list[Given] = []
    notes: list[str] = []
    for response, model, rank, rating in zip(responses, *columns, strict=True):
        if isinstance(response, dict):
            text, scored = given_key(response, _TEXTS), given_key(response, _RATINGS)
            if text is None and not any(isinstance(response.get(name), str) for name in _TEXTS):
                raise BadRow(f"a response has none of the keys {', '.join(_TEXTS)}: {shown(response)}")
            _refuse_judging(response)
            notes += unused_keys(response, (*_TEXTS, *_RATINGS, "model", "rank", "role", "from"))
            model = response.get("model", model)
            rank, rating = response.get("rank", rank), response.get(scored or "rating", rating)
            response = "" if text is None else response[text]
        given.append(_given(response, model, rank, rating))
    return given, [key, *(name for name in keys if name is not None)], notes


def _numbered(row: Mapping[str, Any]) -> tuple[list[Given], list[str], list[str]]:
    """Responses in columns of their own: ``response_1``, ``model_1``, ``rating_1``, ..."""
    by_number: dict[str, dict[str, Any]] = {}
    used: list[str] = []
    for key, match in _numbered_columns(row).items():
        what, number = _SAME.get(match["what"], match["what"]), match["number"].strip("_")
        parts = by_number.setdefault(number, {})
        if what in parts:
            raise BadRow(f"two keys give the {what} {number}, one of them {key!r}: which one is meant?")
        parts[what] = row[key]
        used.append(key)
    missing = next((number for number, parts in by_number.items() if "response" not in parts), None)
    if missing is not None:
        raise BadRow(f"no key 'response_{missing}', though there is a model, rating or rank for it")
    given = [_given(each["response"], each.get("model"), each.get("rank"), each.get("rating")) for each in by_number.values()]
    return given, used, []


def _numbered_columns(row: Mapping[str, Any]) -> dict[str, re.Match[str]]:
    """The numbered columns: ``Response 2`` is ``response_2``, and ``response`` beside it is ``response_1``."""
    names = {key: re.sub(r"[\s-]+", "_", key.strip().lower()) for key in row}
    found = {key: match for key, name in names.items() if (match := _NUMBERED.fullmatch(name))}
    if any(match["what"] in _BARE for match in found.values()):
        first = {key: _NUMBERED.fullmatch(f"{name}_1") for key, name in names.items() if name in _BARE}
        found = {key: match for key in row if (match := first.get(key) or found.get(key))}
    return found


def _given(text: object, model: object, rank: object, rating: object) -> Given:
    if not isinstance(text, str):
        raise BadRow(f"a response should be text and is {shown(text)}")
    if model is not None and not isinstance(model, str):
        raise BadRow(f"a model should be text and is {shown(model)}")
    return Given(text, model or None, number_of(rank, "rank"), number_of(rating, "rating"))


def number_of(value: object, what: str) -> float | None:
    """A rank or rating: a number, or a number as text as tables have it; None if there is none. Raises BadRow."""
    if value is None or value == "":
        return None
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRow(f"a {what} should be a number and is {shown(value)}")
    return number


def ranked(prompt: Prompt, given: Sequence[Given], labeler: str) -> Draft:
    """A prompt, its responses, and their ranking by rank or, if there are no ranks, by rating."""
    draft = Draft([prompt])
    by_rank = any(answer.rank is not None for answer in given)
    places: list[tuple[Given, float | None]] = [
        (answer, answer.rank if by_rank else None if answer.rating is None else -answer.rating) for answer in given
    ]
    pairs: list[tuple[Response, float | None]] = []
    for answer, place in sorted(places, key=lambda each: math.inf if each[1] is None else each[1]):
        if any(answer.text == other.text for other, _ in pairs):
            draft.notes.append("responses with the same text as a better or equal one of the row, left out")
        else:
            pairs.append((new_response(prompt, answer.text, answer.model), place))
    draft.records += [response for response, _ in pairs]
    order = {place: number for number, place in enumerate(sorted({place for _, place in pairs if place is not None}), start=1)}
    ranks = [(response, order[place]) for response, place in pairs if place is not None]
    if len(ranks) >= 2:
        draft.records.append(new_ranking(prompt, ranks, labeler))
        draft.notes += ["responses without a rank or rating beside others, kept outside the ranking"] * (
            len(pairs) - len(ranks)
        )
    else:
        draft.notes.append(NO_RANKING)
    return draft
