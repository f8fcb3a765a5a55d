"""Pairs of a chosen and a rejected response: Anthropic's HH dialogues and TRL's preference rows."""

from __future__ import annotations

import re
from typing import Any

from heedful.conversation import Turn, prompt_turns, response_text, said, split_turns, turns_of
from heedful.project.formats.rows import BadRow, Draft, an_object, new_pair, new_prompt, text_of, turns_of_messages
from heedful.project.structure import shown

HH_SAMPLE = '{"chosen": "\\n\\nHuman: …\\n\\nAssistant: …", "rejected": "\\n\\nHuman: …\\n\\nAssistant: …"}'
TRL_SAMPLE = (
    '{"prompt": "…", "chosen": "…", "rejected": "…"} or {"prompt": [{"role": "user", "content": "…"}], '
    '"chosen": [{"role": "assistant", "content": "…"}], "rejected": [{"role": "assistant", "content": "…"}]}'
)


def read_dialogue_pair(row: object, labeler: str | None) -> Draft:
    """Two dialogues that part at their last Assistant turn: all before it is the prompt, each last turn a response.

    An empty response is kept, as a legal answer. Raises BadRow if the dialogues part earlier or are the same.
    """
    pair = an_object(row)
    chosen, rejected = (_dialogue(pair, key) for key in ("chosen", "rejected"))
    return _pair_of_dialogues(chosen, rejected, labeler or "hh-rlhf")


def _dialogue(pair: dict[str, Any], key: str) -> list[Turn]:
    head, turns = split_turns(text_of(pair, key).strip())
    if not turns or head:
        raise BadRow(f"{key!r} does not begin with 'Human:'")
    return turns


def _pair_of_dialogues(chosen: list[Turn], rejected: list[Turn], labeler: str) -> Draft:
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns[-1][0] != "assistant":
            raise BadRow(f"{name!r} does not end with a turn of the assistant")
    if chosen[:-1] != rejected[:-1]:
        raise BadRow("the chosen and the rejected dialogue part before their last assistant turn")
    if not any(role == "user" for role, _ in chosen[:-1]):
        raise BadRow("no user's turn before the last assistant turn")
    prompt = new_prompt(prompt_turns(chosen[:-1]))
    better, worse = (response_text(prompt.turns, turns[-1].text) for turns in (chosen, rejected))
    return Draft(new_pair(prompt, better, worse, labeler))


def read_trl_pair(row: object, labeler: str | None) -> Draft:
    """A row of TRL's preference format, of either type, with or without its own prompt.

    Texts are taken as they are, to the last space, because TRL joins prompt and response as they are. A text row without
    prompt is cut at the last white space that both responses share (TRL cuts inside words too); dialogues, at their last
    turn. Raises BadRow.
    """
    pair = an_object(row)
    labeler = labeler or "trl-preference"
    for key in ("chosen", "rejected"):
        if key not in pair:
            raise BadRow(f"no key {key!r}")
    prompt, chosen, rejected = pair.get("prompt"), pair["chosen"], pair["rejected"]
    if isinstance(chosen, list) and isinstance(rejected, list):
        before = turns_of_messages(prompt) if isinstance(prompt, list) and prompt else _turns_of_text(pair)
        return _pair_of_dialogues(_after(before, chosen), _after(before, rejected), labeler)
    chosen, rejected = text_of(pair, "chosen"), text_of(pair, "rejected")
    if prompt is not None:
        asked = new_prompt(turns_of(text_of(pair, "prompt")))
        return Draft(new_pair(asked, said(asked.turns, chosen), said(asked.turns, rejected), labeler))
    if chosen.lstrip().startswith("Human:"):
        return read_dialogue_pair(pair, labeler)
    same = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), min(len(chosen), len(rejected)))
    shared = re.match(r"(?s).*\S(?=\s)", chosen[:same])
    if shared is None or chosen == rejected:
        raise BadRow(f"no prompt, and no common beginning of 'chosen' and 'rejected' that could be it: {shown(chosen)}")
    text = shared.group()
    prompt = new_prompt(turns_of(text))
    better, worse = (said(prompt.turns, response[len(text) :]) for response in (chosen, rejected))
    return Draft(new_pair(prompt, better, worse, labeler))


def _turns_of_text(pair: dict[str, Any]) -> list[Turn]:
    return list(turns_of(text_of(pair, "prompt"))) if pair.get("prompt") else []


def _after(before: list[Turn], messages: list[Any]) -> list[Turn]:
    """The messages after the prompt's turns; some files repeat those in front of each response."""
    turns = turns_of_messages(messages)
    return turns if turns[: len(before)] == before else before + turns
