"""Instructions with answers: Alpaca-style rows and chat messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from heedful.conversation import prompt_turns, response_text
from heedful.project.formats.row_keys import (
    HISTORY_KEYS,
    SYSTEM_KEYS,
    USER_KEYS,
    Asked,
    asked,
    earlier_turns,
    given_key,
    joined,
    unused_keys,
    user_of,
)
from heedful.project.formats.rows import (
    BadRow,
    Draft,
    an_object,
    new_demonstration,
    new_pair,
    new_prompt,
    text_of,
    turns_of_messages,
)

ALPACA_SAMPLE = (
    '{"instruction": "…", "input": "", "output": "…"}, also with "chosen" and "rejected", or {"prompt": "…", "response": "…"}'
)
DOLLY_SAMPLE = '{"instruction": "…", "context": "", "response": "…", "category": "open_qa"}'
MESSAGES_SAMPLE = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'

_ANSWERS = ("output", "response", "completion")
_TEMPLATE = re.compile(
    r"Below is an instruction that describes a task.*?\n\n### Instruction:\n(?P<instruction>.*?)"
    r"(\n\n### Input:\n(?P<input>.*?))?\n\n### Response:\s*\Z",
    re.DOTALL,
)


def read_instruction(row: object, labeler: str | None) -> Draft:
    """A question with an answer (``output``, ``response`` or ``completion``), a ``chosen`` and ``rejected`` one, or both.

    The question is ``instruction``, ``prompt`` or ``question``; ``input`` or ``context`` follows it after an empty line, and
    ``system`` and ``history`` become turns in front of it. If a ``prompt`` uses Alpaca's template, the template is removed, so
    that a task reads the same from every file. Otherwise a lone ``prompt`` and its answer are kept exactly. Raises BadRow.
    """
    row = an_object(row)
    labeler = labeler or "alpaca"
    label = row["label"] if isinstance(row.get("label"), str | int | float) else None
    if str(label).lower() in ("false", "0", "0.0", "no", "bad"):
        raise BadRow(f"'label' is {label}: an answer that was judged bad is not a demonstration")
    good = ("label",) if str(label).lower() in ("true", "1", "1.0", "yes", "good") else ()
    question = _without_template(row) or asked(row)
    if question is None:
        raise BadRow("no key 'instruction', nor 'prompt' or 'question', or it is empty")
    prompt = new_prompt(question.turns, user=user_of(row))
    draft = Draft([prompt], unused_keys(row, (*question.used, *_ANSWERS, *USER_KEYS, *good, "chosen", "rejected")))
    answer = given_key(row, _ANSWERS)
    if answer is not None:
        draft.records.append(new_demonstration(prompt, question.answer(_answer_text(row, answer)), labeler))
    if "chosen" in row or "rejected" in row:
        chosen, rejected = (question.answer(_answer_text(row, key)) for key in ("chosen", "rejected"))
        if chosen != rejected:
            draft.records += new_pair(prompt, chosen, rejected, labeler)[1:]
        elif len(draft.records) == 1:
            raise BadRow("the chosen and the rejected response are the same")
        else:
            draft.notes.append("rows whose chosen and rejected response are the same: a demonstration, no comparison")
    elif len(draft.records) == 1:
        empty = next((key for key in _ANSWERS if key in row), None)
        raise BadRow(f"{empty!r} is empty" if empty else "no key 'output', 'response' or 'completion'")
    return draft


def read_dolly(row: object, labeler: str | None) -> Draft:
    """Databricks' Dolly: ``instruction``, ``context`` (often empty), ``response`` and ``category``. Raises BadRow."""
    return read_instruction(row, labeler or "dolly")


def _without_template(row: Mapping[str, Any]) -> Asked | None:
    """What a prompt in Alpaca's template asks, or None."""
    template = _TEMPLATE.match(row["prompt"]) if isinstance(row.get("prompt"), str) else None
    if template is None:
        return None
    return asked({**row, "prompt": None, "instruction": template["instruction"], "input": template["input"]})


def _answer_text(row: Mapping[str, Any], key: str) -> str:
    """An answer as text, or as the one message of a list."""
    if isinstance(row.get(key), list):
        turns = turns_of_messages(row[key])
        if len(turns) != 1 or turns[0].role != "assistant":
            raise BadRow(f"{key!r} is not one message of the assistant")
        return turns[0].text
    return text_of(row, key)


def read_messages(row: object, labeler: str | None) -> Draft:
    """A chat. If it ends with the assistant, that turn is the demonstration and all before it the prompt.

    If it ends with the user (or a tool), all of it is a prompt without demonstration: earlier turns of the assistant are
    context, because no one has said that they are good. ``conversations`` with ``from`` and ``value`` is read too; the turns of
    ``system`` and ``history`` come first. Raises BadRow.
    """
    row = an_object(row)
    key = "messages" if "messages" in row or "conversations" not in row else "conversations"
    if key not in row:
        raise BadRow("no key 'messages'")
    turns = joined(earlier_turns(row), turns_of_messages(row[key]))
    answered = turns[-1].role == "assistant"
    before = turns[:-1] if answered else turns
    if not before or before[-1].role not in ("user", "tool"):
        raise BadRow("the last turn of the assistant does not follow one of the user or of a tool")
    prompt = new_prompt(prompt_turns(before), user=user_of(row))
    draft = Draft([prompt], unused_keys(row, (key, *SYSTEM_KEYS, *HISTORY_KEYS, *USER_KEYS)))
    if answered:
        draft.records.append(new_demonstration(prompt, response_text(prompt.turns, turns[-1].text), labeler or "messages"))
    else:
        draft.notes.append("chats that do not end with the assistant: prompts without demonstration")
    return draft
