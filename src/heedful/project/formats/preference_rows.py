"""Pairs of a chosen and a rejected response: Anthropic's HH dialogues and TRL's preference rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from heedful.conversation import Turn, prompt_turns, response_text, said, split_turns, trimmed, turns_of
from heedful.project.formats.row_keys import (
    HISTORY_KEYS,
    SYSTEM_KEYS,
    USER_KEYS,
    Asked,
    asked,
    earlier_turns,
    joined,
    unused_keys,
    user_of,
)
from heedful.project.formats.rows import BadRow, Draft, an_object, new_pair, new_prompt, text_of, turns_of_messages
from heedful.project.structure import shown

HH_SAMPLE = '{"chosen": "\\n\\nHuman: …\\n\\nAssistant: …", "rejected": "\\n\\nHuman: …\\n\\nAssistant: …"}'
_PAIR_KEYS = ("chosen", "rejected", *SYSTEM_KEYS, *HISTORY_KEYS, *USER_KEYS)
TRL_SAMPLE = (
    '{"prompt": "…", "chosen": "…", "rejected": "…"} or {"prompt": [{"role": "user", "content": "…"}], '
    '"chosen": [{"role": "assistant", "content": "…"}], "rejected": [{"role": "assistant", "content": "…"}]}'
)


def read_dialogue_pair(row: object, labeler: str | None) -> Draft:
    """Two dialogues that differ in their last Assistant turn only: it is the response, and everything before it the prompt.

    An empty response is kept: it is a legal answer. ``system`` becomes the first turn. Raises BadRow if the dialogues differ
    earlier or are the same.
    """
    pair = an_object(row)
    before = earlier_turns(pair)
    chosen, rejected = (joined(before, _dialogue(pair, key)) for key in ("chosen", "rejected"))
    draft = _pair_of_dialogues(chosen, rejected, labeler or "hh-rlhf", user_of(pair))
    draft.notes += unused_keys(pair, _PAIR_KEYS)
    return draft


def _dialogue(pair: Mapping[str, Any], key: str) -> list[Turn]:
    head, turns = split_turns(text_of(pair, key).strip())
    if not turns or head:
        raise BadRow(f"{key!r} does not begin with 'Human:'")
    return turns


def _pair_of_dialogues(chosen: list[Turn], rejected: list[Turn], labeler: str, user: str | None) -> Draft:
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns[-1][0] != "assistant":
            raise BadRow(f"{name!r} does not end with a turn of the assistant")
    if chosen[:-1] != rejected[:-1]:
        raise BadRow("the chosen and the rejected dialogue differ before their last assistant turn")
    if not any(role == "user" for role, _ in chosen[:-1]):
        raise BadRow("no user's turn before the last assistant turn")
    prompt = new_prompt(prompt_turns(chosen[:-1]), user=user)
    better, worse = (response_text(prompt.turns, turns[-1].text) for turns in (chosen, rejected))
    return Draft(new_pair(prompt, better, worse, labeler))


def read_trl_pair(row: object, labeler: str | None) -> Draft:
    """A row of TRL's preference format, of either type, with or without its own prompt.

    Texts are kept exactly, every space included, because TRL joins prompt and response unchanged. A text row without prompt is
    cut at the last white space that both responses share (TRL cuts inside words too); dialogues are cut at their last turn.
    ``question`` or ``instruction`` may replace ``prompt``. ``input`` or ``context``, ``system`` and ``history`` become turns of
    the prompt. If the lists of messages repeat the prompt, it is read once. Raises BadRow.
    """
    pair = an_object(row)
    labeler = labeler or "trl-preference"
    for key in ("chosen", "rejected"):
        if key not in pair:
            raise BadRow(f"no key {key!r}")
    question = asked(pair)
    used = (*_PAIR_KEYS, *(question.used if question else ()))
    if pair.get("messages") == pair["chosen"]:
        used = (*used, "messages")  # UltraFeedback's pairs repeat the chosen conversation there
    draft = _trl_draft(pair, question, labeler)
    draft.notes += unused_keys(pair, used)
    return draft


def _trl_draft(pair: Mapping[str, Any], question: Asked | None, labeler: str) -> Draft:
    chosen, rejected, user = pair["chosen"], pair["rejected"], user_of(pair)
    if isinstance(chosen, list) and isinstance(rejected, list):
        before = list(question.turns) if question else earlier_turns(pair)
        better, worse = (_after(before, turns_of_messages(each)) for each in (chosen, rejected))
        return _pair_of_dialogues(better, worse, labeler, user)
    chosen, rejected = text_of(pair, "chosen"), text_of(pair, "rejected")
    if question is not None:
        prompt = new_prompt(question.turns, user=user)
        chosen, rejected, notes = _without_prompt(prompt.text, chosen, rejected)
        return Draft(new_pair(prompt, question.answer(chosen), question.answer(rejected), labeler), notes)
    if "prompt" in pair and pair["prompt"] is not None:
        raise BadRow("the prompt is empty")
    if chosen.lstrip().startswith("Human:"):
        return read_dialogue_pair({key: pair[key] for key in pair if key in _PAIR_KEYS}, labeler)
    return _cut_at_what_is_shared(pair, chosen, rejected, labeler)


def _without_prompt(prompt: str, chosen: str, rejected: str) -> tuple[str, str, list[str]]:
    """The responses without the prompt, if both repeat it. A prompt of one or two words may begin an answer by chance."""
    for text in (prompt, prompt.strip()):
        if len(text.split()) > 2 and chosen.startswith(text) and rejected.startswith(text):
            return chosen[len(text) :], rejected[len(text) :], ["pairs that repeat the prompt before each response: read once"]
    return chosen, rejected, []


def _cut_at_what_is_shared(pair: Mapping[str, Any], chosen: str, rejected: str, labeler: str) -> Draft:
    same = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), min(len(chosen), len(rejected)))
    shared = re.match(r"(?s).*\S(?=\s)", chosen[:same])
    if shared is None or chosen == rejected:
        raise BadRow(f"no prompt, and no common beginning of 'chosen' and 'rejected' that could be it: {shown(chosen)}")
    if earlier_turns(pair):
        raise BadRow("a system message or history without a prompt: it is not clear where the question ends")
    text = shared.group()
    prompt = new_prompt(turns_of(text), user=user_of(pair))
    better, worse = (said(prompt.turns, response[len(text) :]) for response in (chosen, rejected))
    return Draft(new_pair(prompt, better, worse, labeler))


def _after(before: list[Turn], turns: list[Turn]) -> list[Turn]:
    """The prompt's turns and the messages after them. The messages may repeat the prompt's turns, all or only the last ones."""
    plain = [Turn(role, trimmed(text)) for role, text in before]
    repeated = [Turn(role, trimmed(text)) for role, text in turns[:-1]]
    for length in range(min(len(plain), len(repeated)), 0, -1):
        if repeated[:length] == plain[len(plain) - length :]:
            return plain + turns[length:]
    if plain and repeated[len(repeated) - len(plain) :] == plain:
        return turns
    if turns[0].role in ("system", "user") and any(role == "user" for role, _ in plain):
        raise BadRow("the messages of 'chosen' and 'rejected' neither repeat the prompt nor go on with the assistant's turn")
    return joined(before, turns)
