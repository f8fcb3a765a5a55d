"""Instructions with answers: Alpaca-style rows and chat messages."""

from __future__ import annotations

import re

from heedful.conversation import Turn, prompt_turns, response_text, said, trimmed, turns_of
from heedful.project.formats.rows import (
    BadRow,
    Draft,
    an_object,
    new_demonstration,
    new_pair,
    new_prompt,
    optional_text,
    text_of,
    turns_of_messages,
)
from heedful.project.structure import shown
from heedful.records import Prompt

ALPACA_SAMPLE = (
    '{"instruction": "…", "input": "", "output": "…"}, also with "chosen" and "rejected", or {"prompt": "…", "response": "…"}'
)
MESSAGES_SAMPLE = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'

_TEMPLATE = re.compile(
    r"Below is an instruction that describes a task.*?\n\n### Instruction:\n(?P<instruction>.*?)"
    r"(\n\n### Input:\n(?P<input>.*?))?\n\n### Response:\s*\Z",
    re.DOTALL,
)


def read_instruction(row: object, labeler: str | None) -> Draft:
    """``instruction``, ``input`` and ``output``, also ``chosen`` and ``rejected``; or ``prompt`` and an answer.

    The prompt is the instruction, an empty line and the input. Rows of ``prompt`` with ``response`` or ``completion`` (Dolly,
    TRL's SFT rows) belong here because their template, if they have one, is Alpaca's. It is removed, so that a task reads the
    same from every file; without it the two texts are kept as they are. Raises BadRow.
    """
    row = an_object(row)
    labeler = labeler or "alpaca"
    if "instruction" not in row:
        answer = next((key for key in ("response", "completion") if key in row), None)
        if answer is None or "prompt" not in row:
            raise BadRow("no key 'instruction', nor 'prompt' with 'response' or 'completion'")
        if isinstance(row["prompt"], list):
            return _conversation(turns_of_messages(row["prompt"]), row[answer], labeler)
        return _prompt_and_answer(text_of(row, "prompt"), text_of(row, answer), labeler)
    prompt = _task(text_of(row, "instruction"), optional_text(row, "input"))
    draft = Draft([prompt])
    if optional_text(row, "output") is not None:
        draft.records.append(new_demonstration(prompt, response_text(prompt.turns, text_of(row, "output")), labeler))
    if "chosen" in row or "rejected" in row:
        chosen, rejected = (response_text(prompt.turns, text_of(row, key)) for key in ("chosen", "rejected"))
        if chosen != rejected:
            draft.records += new_pair(prompt, chosen, rejected, labeler)[1:]
        elif len(draft.records) == 1:
            raise BadRow("the chosen and the rejected response are the same")
        else:
            draft.notes.append("rows whose chosen and rejected response are the same: a demonstration, no comparison")
    elif len(draft.records) == 1:
        raise BadRow("'output' is empty" if "output" in row else "no key 'output'")
    return draft


def _prompt_and_answer(prompt_text: str, answer: str, labeler: str) -> Draft:
    template = _TEMPLATE.match(prompt_text)
    if template is None:
        prompt = new_prompt(turns_of(prompt_text))
        answer = said(prompt.turns, answer)
    else:
        prompt = _task(template["instruction"], template["input"])
        answer = response_text(prompt.turns, answer)
    return Draft([prompt, new_demonstration(prompt, answer, labeler)])


def _conversation(before: list[Turn], answer: object, labeler: str) -> Draft:
    """Messages with the answer as one more message, or as text."""
    prompt = new_prompt(prompt_turns(before))
    if isinstance(answer, list):
        turns = turns_of_messages(answer)
        if len(turns) != 1 or turns[0].role != "assistant":
            raise BadRow("the answer is not one message of the assistant")
        answer = turns[0].text
    if not isinstance(answer, str):
        raise BadRow(f"the answer should be text or a message and is {shown(answer)}")
    return Draft([prompt, new_demonstration(prompt, response_text(prompt.turns, answer), labeler)])


def _task(instruction: str, given: str | None) -> Prompt:
    if not instruction.strip():
        raise BadRow("'instruction' is empty")
    parts = [trimmed(instruction), trimmed(given or "")]
    return new_prompt(prompt_turns([("user", "\n\n".join(part for part in parts if part))]))


def read_messages(row: object, labeler: str | None) -> Draft:
    """A chat: the turns up to the last one of the assistant are the prompt, that turn is the demonstration.

    A chat that no assistant answered is a prompt without demonstration. ``conversations`` with ``from`` and ``value`` is read
    too. Raises BadRow.
    """
    row = an_object(row)
    key = "messages" if "messages" in row or "conversations" not in row else "conversations"
    if key not in row:
        raise BadRow("no key 'messages'")
    turns = turns_of_messages(row[key])
    answered = [index for index, (role, _) in enumerate(turns) if role == "assistant"]
    before = turns[: answered[-1]] if answered else turns
    if not before or before[-1].role not in ("user", "tool"):
        raise BadRow("the last turn of the assistant does not follow one of the user or of a tool")
    prompt = new_prompt(prompt_turns(before), user=optional_text(row, "user"))
    draft = Draft([prompt])
    if answered:
        draft.records.append(
            new_demonstration(prompt, response_text(prompt.turns, turns[answered[-1]].text), labeler or "messages")
        )
        draft.notes += ["messages after the last turn of the assistant, left out"] * (len(turns) - 1 - answered[-1])
    else:
        draft.notes.append("chats without a turn of the assistant: prompts without demonstration")
    return draft
