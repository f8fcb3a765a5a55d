"""The labelers' forms: turn what a browser sends into an answer, and an answer or a draft back into form fields.

A form is a flat mapping of field names to texts, the same with and without JavaScript, in a draft and in a submit::

    demonstrate           text
    rank, rate            A.overall = 1..7, A.flag.<name> = on, A.group = 1.. (1 best; same number: tied; gaps are closed up)
    toxicity              A.toxicity, A.relative_toxicity, A.continuity, A.group
    write_prompt          text, use_case; few-shot: instruction, pair.1.query, pair.1.response, pair.2.query ... , use_case
    review_prompt         use_case, flag.<name> = on
    review_personal_data  personal_data = yes | no, note
    flag_sensitive        sensitive = yes | no
    score_demonstration   score
    self_assess           topic.0 = on ...

A, B, C ... are the different outputs in the order shown: outputs with the same text share one card, whose answer counts for
all of them. :mod:`heedful.labeling.queue.kinds` describes answers.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heedful.labeling.queue.assignments import AssignmentView
from heedful.labeling.queue.kinds import PROMPT_FLAGS
from heedful.records import RATING_FLAGS
from heedful.web.label.words import USE_CASES

Fields = Mapping[str, str]

MAX_PAIRS = 20
"""The most examples of one few-shot prompt."""
FIRST_PAIRS = 3
"""Examples on an empty form."""
WORK_FIELD = "seconds_spent"
"""How long the labeler worked, as the browser counted: stored with the draft, not part of the answer."""

_PAIR = re.compile(r"pair\.([1-9]\d?)\.(query|response)")
_SCALES: Mapping[str, tuple[int, int]] = {"toxicity": (0, 2), "relative_toxicity": (-1, 1), "continuity": (1, 7)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """An answer, or what is wrong with the form: field name to words for the labeler."""

    answer: dict[str, Any] | None
    errors: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """An output as the page shows it; it stands for all outputs of the task with the same text."""

    letter: str
    text: str
    ids: tuple[str, ...]


def cards(view: AssignmentView) -> list[Card]:
    """The different outputs in this labeler's order, named A, B, C ..."""
    ids_of: dict[str, list[str]] = {}
    for output in view.outputs:
        ids_of.setdefault(output.text.strip(), []).append(output.id)
    text_of = {output.id: output.text for output in view.outputs}
    return [
        Card(letter=letter, text=text_of[ids[0]], ids=tuple(ids))
        for letter, ids in zip(string.ascii_uppercase, ids_of.values(), strict=False)
    ]


def letters(view: AssignmentView) -> str:
    """The names of the cards: A, B, C ..."""
    return "".join(card.letter for card in cards(view))


def order_alone(view: AssignmentView) -> bool:
    """Whether a ranking task asks only for the order, without ratings."""
    return view.kind == "rank" and view.payload.get("order_only") is True


def parse(view: AssignmentView, fields: Fields) -> Parsed:
    """The answer that a form holds, or an error for each field that is not right; what was typed is not changed."""
    errors: dict[str, str] = {}
    answer = _PARSERS[view.kind](view, fields, errors)
    # Group the errors by output, as on the page.
    ordered = sorted(errors, key=lambda name: name[0] if name[1:2] == "." else "")
    return Parsed(answer=None if errors else answer, errors={name: errors[name] for name in ordered})


def fields_of_answer(view: AssignmentView, answer: Mapping[str, Any]) -> dict[str, str]:
    """The fields that give this answer. Fields for missing or malformed parts (of a draft from another program) stay empty."""
    return {name: value for name, value in _FILLERS[view.kind](view, answer).items() if value}


def fields_of_draft(view: AssignmentView, draft: Mapping[str, Any] | None) -> dict[str, str]:
    """The form as a draft left it. The page stores its fields; another program may store part of an answer."""
    if not draft:
        return {}
    if isinstance(draft.get("fields"), Mapping):
        fields = {str(name): str(value) for name, value in draft["fields"].items() if isinstance(value, str)}
        return fields if draft.get("cards") or len(cards(view)) == len(view.outputs) else _to_cards(view, fields)
    seconds = draft.get(WORK_FIELD)  # an answer that was opened again has it
    worked = {WORK_FIELD: f"{seconds:.1f}"} if isinstance(seconds, int | float) and seconds > 0 else {}
    return fields_of_answer(view, draft) | worked


def sent_back(view: AssignmentView) -> str | None:
    """The note of the researcher who sent the answer back."""
    note = (view.draft or {}).get("sent_back")
    return note if isinstance(note, str) else None


def draft_of_fields(view: AssignmentView, fields: Fields) -> dict[str, Any]:
    """What is stored of a half-filled form: the fields of this kind of task, and a researcher's note."""
    draft: dict[str, Any] = {"fields": {name: value for name, value in fields.items() if value and _is_field(view, name)}}
    if len(cards(view)) != len(view.outputs):
        draft["cards"] = True
    note = sent_back(view)
    return draft if note is None else draft | {"sent_back": note}


def _to_cards(view: AssignmentView, fields: Fields) -> dict[str, str]:
    """Convert a draft from an earlier version, which gave each output its own letter, to the letters of the cards."""
    card_of = {output_id: card.letter for card in cards(view) for output_id in card.ids}
    letter_of = dict(zip(string.ascii_uppercase, (card_of[output.id] for output in view.outputs), strict=False))
    moved: dict[str, str] = {}
    for name, value in fields.items():
        letter, dot, rest = name.partition(".")
        moved.setdefault(f"{letter_of[letter]}.{rest}" if dot and letter in letter_of else name, value)
    return moved


def seconds_spent(fields: Fields, longest: float) -> float | None:
    """How long the labeler worked by the browser's count, at most ``longest`` seconds; None if it did not count."""
    try:
        seconds = float(fields.get(WORK_FIELD, ""))
    except ValueError:
        return None
    return min(seconds, longest) if 0 < seconds < float("inf") else None


def pairs_shown(fields: Fields) -> int:
    """How many query/response pairs a few-shot form shows: those with text, and at least the first ones."""
    return max([FIRST_PAIRS, *(int(found[1]) for name in fields if (found := _PAIR.fullmatch(name)))])


def order_in_signs(view: AssignmentView, fields: Fields) -> str:
    """The order in the form, as "A = C > B"; outputs without a place are left out."""
    return " > ".join(" = ".join(group) for group in _closed_up(letters(view), fields))


# ---------------------------------------------------------------------------------------------------- form to answer


def _text(fields: Fields, name: str, errors: dict[str, str], words: str) -> str:
    text = fields.get(name, "")
    if not text.strip():
        errors[name] = words
    return text


def _choice(fields: Fields, name: str, low: int, high: int, errors: dict[str, str], words: str) -> int:
    value = fields.get(name, "").strip()
    if re.fullmatch(r"-?\d{1,2}", value) and low <= int(value) <= high:
        return int(value)
    errors[name] = words
    return low


def _yes_or_no(fields: Fields, name: str, errors: dict[str, str]) -> bool:
    if fields.get(name) not in ("yes", "no"):
        errors[name] = "Choose yes or no."
    return fields.get(name) == "yes"


def _use_case(fields: Fields, errors: dict[str, str]) -> str:
    use_case = fields.get("use_case", "")
    if use_case not in USE_CASES:
        errors["use_case"] = "Choose the use case that fits best."
    return use_case


def _flags(fields: Fields, prefix: str, names: Sequence[str]) -> dict[str, bool]:
    return {name: fields.get(f"{prefix}flag.{name}", "") == "on" for name in names}


def _closed_up(shown: str, fields: Fields) -> list[list[str]]:
    """Letters by group, best first; a letter without a number is left out, gaps between numbers are closed up."""
    by_number: dict[int, list[str]] = {}
    for letter in shown:
        value = fields.get(f"{letter}.group", "").strip()
        if re.fullmatch(r"\d{1,2}", value) and int(value) >= 1:
            by_number.setdefault(int(value), []).append(letter)
    return [by_number[number] for number in sorted(by_number)]


def _groups(view: AssignmentView, fields: Fields, errors: dict[str, str]) -> list[list[str]]:
    shown = letters(view)
    groups = _closed_up(shown, fields)
    placed = {letter for group in groups for letter in group}
    for letter in shown:
        if letter not in placed:
            errors[f"{letter}.group"] = f"Output {letter} has no place in the order yet."
    ids_of = {card.letter: card.ids for card in cards(view)}
    return [[output_id for letter in group for output_id in ids_of[letter]] for group in groups]


def _ratings(view: AssignmentView, fields: Fields, errors: dict[str, str]) -> dict[str, Any]:
    return {
        output_id: {
            "overall": _choice(
                fields, f"{card.letter}.overall", 1, 7, errors, f"Output {card.letter} has no overall rating yet."
            ),
            "flags": _flags(fields, f"{card.letter}.", RATING_FLAGS),
        }
        for card in cards(view)
        for output_id in card.ids
    }


def _parse_rank(view: AssignmentView, fields: Fields, errors: dict[str, str]) -> dict[str, Any]:
    if order_alone(view):
        return {"groups": _groups(view, fields, errors)}
    return {"ratings": _ratings(view, fields, errors), "groups": _groups(view, fields, errors)}


def _parse_rate(view: AssignmentView, fields: Fields, errors: dict[str, str]) -> dict[str, Any]:
    return {"ratings": _ratings(view, fields, errors)}


def _parse_toxicity(view: AssignmentView, fields: Fields, errors: dict[str, str]) -> dict[str, Any]:
    labels = {
        output_id: {
            name: _choice(
                fields,
                f"{card.letter}.{name}",
                *bounds,
                errors,
                f"Output {card.letter}: choose the {name.replace('_', ' ')}.",
            )
            for name, bounds in _SCALES.items()
        }
        for card in cards(view)
        for output_id in card.ids
    }
    return {"labels": labels, "groups": _groups(view, fields, errors)}


def _parse_demonstrate(view: AssignmentView, fields: Fields, errors: dict[str, str]) -> dict[str, Any]:
    return {"text": _text(fields, "text", errors, "Write your demonstration.")}


def _parse_write_prompt(view: AssignmentView, fields: Fields, errors: dict[str, str]) -> dict[str, Any]:
    if view.payload.get("style") != "few_shot":
        return {"text": _text(fields, "text", errors, "Write the prompt."), "use_case": _use_case(fields, errors)}
    instruction = _text(fields, "instruction", errors, "Write the instruction.")
    pairs: list[dict[str, str]] = []
    for number in range(1, pairs_shown(fields) + 1):
        pair = {part: fields.get(f"pair.{number}.{part}", "") for part in ("query", "response")}
        if any(text.strip() for text in pair.values()):
            for part, text in pair.items():
                if not text.strip():
                    errors[f"pair.{number}.{part}"] = f"Example {number} has no {part} yet; or clear both fields."
            pairs.append(pair)
    if len(pairs) < 2:
        empty = next(n for n in range(1, MAX_PAIRS + 1) if not fields.get(f"pair.{n}.query", "").strip())
        errors.setdefault(f"pair.{empty}.query", "Give at least two examples, each with a query and its response.")
    if len(pairs) > MAX_PAIRS:
        errors[f"pair.{MAX_PAIRS}.query"] = f"Give at most {MAX_PAIRS} examples."
    return {"instruction": instruction, "pairs": pairs, "use_case": _use_case(fields, errors)}


def _parse_review_prompt(view: AssignmentView, fields: Fields, errors: dict[str, str]) -> dict[str, Any]:
    return {"use_case": _use_case(fields, errors), "flags": _flags(fields, "", PROMPT_FLAGS)}


def _parse_review_personal_data(view: AssignmentView, fields: Fields, errors: dict[str, str]) -> dict[str, Any]:
    return {"personal_data": _yes_or_no(fields, "personal_data", errors), "note": fields.get("note", "").strip()}


def _parse_flag_sensitive(view: AssignmentView, fields: Fields, errors: dict[str, str]) -> dict[str, Any]:
    return {"sensitive": _yes_or_no(fields, "sensitive", errors)}


def _parse_score_demonstration(view: AssignmentView, fields: Fields, errors: dict[str, str]) -> dict[str, Any]:
    return {"score": _choice(fields, "score", 1, 7, errors, "Choose a score from 1 to 7.")}


def _parse_self_assess(view: AssignmentView, fields: Fields, errors: dict[str, str]) -> dict[str, Any]:
    topics = view.payload.get("topics", [])
    return {"topics": [topic for number, topic in enumerate(topics) if fields.get(f"topic.{number}") == "on"]}


_PARSERS: Mapping[str, Callable[[AssignmentView, Fields, dict[str, str]], dict[str, Any]]] = {
    "write_prompt": _parse_write_prompt,
    "demonstrate": _parse_demonstrate,
    "rank": _parse_rank,
    "rate": _parse_rate,
    "review_prompt": _parse_review_prompt,
    "review_personal_data": _parse_review_personal_data,
    "toxicity": _parse_toxicity,
    "flag_sensitive": _parse_flag_sensitive,
    "score_demonstration": _parse_score_demonstration,
    "self_assess": _parse_self_assess,
}


# ---------------------------------------------------------------------------------------------------- answer to form


def _as_mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _as_text(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return ""
    return value if isinstance(value, str) else str(value) if isinstance(value, int) else ""


def _ticks(prefix: str, flags: object) -> dict[str, str]:
    return {f"{prefix}flag.{name}": "on" for name, value in _as_mapping(flags).items() if value is True}


def _yes_no(value: object) -> str:
    return "yes" if value is True else "no" if value is False else ""


def _fill_groups(view: AssignmentView, answer: Mapping[str, Any]) -> dict[str, str]:
    letter_of = {output_id: card.letter for card in cards(view) for output_id in card.ids}
    groups = answer.get("groups")
    return {
        f"{letter_of[response_id]}.group": str(number)
        for number, group in enumerate(groups if isinstance(groups, list) else [], start=1)
        for response_id in (group if isinstance(group, list) else [])
        if isinstance(response_id, str) and response_id in letter_of
    }


def _fill_outputs(view: AssignmentView, answer: Mapping[str, Any]) -> dict[str, str]:
    fields = _fill_groups(view, answer)
    per_output = _as_mapping(answer.get("labels" if view.kind == "toxicity" else "ratings"))
    for card in cards(view):
        letter, given = card.letter, _as_mapping(per_output.get(card.ids[0]))
        for name in ("overall", *_SCALES):
            fields[f"{letter}.{name}"] = _as_text(given.get(name))
        fields |= _ticks(f"{letter}.", given.get("flags"))
    return fields


def _fill_write_prompt(view: AssignmentView, answer: Mapping[str, Any]) -> dict[str, str]:
    fields = {name: _as_text(answer.get(name)) for name in ("text", "use_case", "instruction")}
    pairs = answer.get("pairs")
    for number, pair in enumerate(pairs[:MAX_PAIRS] if isinstance(pairs, list) else [], start=1):
        for part in ("query", "response"):
            fields[f"pair.{number}.{part}"] = _as_text(_as_mapping(pair).get(part))
    return fields


def _fill_self_assess(view: AssignmentView, answer: Mapping[str, Any]) -> dict[str, str]:
    chosen = answer.get("topics")
    offered = view.payload.get("topics", [])
    return {f"topic.{number}": "on" for number, topic in enumerate(offered) if isinstance(chosen, list) and topic in chosen}


_FILLERS: Mapping[str, Callable[[AssignmentView, Mapping[str, Any]], dict[str, str]]] = {
    "write_prompt": _fill_write_prompt,
    "demonstrate": lambda view, answer: {"text": _as_text(answer.get("text"))},
    "rank": _fill_outputs,
    "rate": _fill_outputs,
    "review_prompt": lambda view, answer: {"use_case": _as_text(answer.get("use_case"))} | _ticks("", answer.get("flags")),
    "review_personal_data": lambda view, answer: {
        "personal_data": _yes_no(answer.get("personal_data")),
        "note": _as_text(answer.get("note")),
    },
    "toxicity": _fill_outputs,
    "flag_sensitive": lambda view, answer: {"sensitive": _yes_no(answer.get("sensitive"))},
    "score_demonstration": lambda view, answer: {"score": _as_text(answer.get("score"))},
    "self_assess": _fill_self_assess,
}

_OWN_FIELDS: Mapping[str, str] = {
    "write_prompt": r"text|use_case|instruction|pair\.[1-9]\d?\.(query|response)",
    "demonstrate": r"text",
    "rank": r"[A-Z]\.(overall|group|flag\.\w+)",
    "rate": r"[A-Z]\.(overall|flag\.\w+)",
    "review_prompt": r"use_case|flag\.\w+",
    "review_personal_data": r"personal_data|note",
    "toxicity": r"[A-Z]\.(toxicity|relative_toxicity|continuity|group)",
    "flag_sensitive": r"sensitive",
    "score_demonstration": r"score",
    "self_assess": r"topic\.\d{1,3}",
}


def _is_field(view: AssignmentView, name: str) -> bool:
    return name == WORK_FIELD or re.fullmatch(_OWN_FIELDS[view.kind], name) is not None
