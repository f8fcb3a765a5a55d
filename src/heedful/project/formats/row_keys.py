"""What the keys of a row mean: keys that every format reads the same way, and keys that no reader used.

Each reader names the keys that it used, and ``unused_keys`` decides about the others:

- a key that changes what the prompt means (``tools``, ``passage``, a second conversation) makes the row unusable;
- a key that is known to be harmless (ids, sources, hashes, times) is ignored;
- any other key is counted in the report.

A key without a value (null, empty) says nothing and is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from heedful.conversation import Turn, prompt_turns, response_text, said, trimmed, turns_of
from heedful.project.formats.rows import BadRow, text_of, turns_of_messages
from heedful.project.structure import shown

_MEANING = """
system preamble persona character instruction instructions prompt question query task input inputs context contexts
passage passages paragraph paragraphs snippet snippets excerpt document documents doc docs table tables schema facts story
rules guidelines constraints target targets article background knowledge evidence reference references history conversation
conversations dialog dialogue messages turns chat previous past tool tools function functions image images audio video
prefix suffix prefill examples shots options choices
"""
"""Words of keys that change what the prompt means."""

_HARMLESS = """
id ids uuid idx index hash sha256 md5 url urls link source sources origin dataset subset domain time timestamp date at utc
created updated lang language languages locale model models version license category categories topic tags type name count
num length len tokens words turn token fingerprint file filename line row batch worker
"""
"""Last words of keys that say where a row comes from, or count something in it."""

_NEVER_HARMLESS = frozenset(("image", "images", "audio", "video", "target", "targets"))
"""``image_url`` is part of the question, and so is ``target_language``."""

_MESSAGE_KEYS = ("role", "from", "content", "value", "weight", "train", "loss")

UNUSED = "times the key "
"""How the note on an unused key begins."""

SYSTEM_KEYS = ("system", "system_prompt", "system_message")
HISTORY_KEYS = ("history", "chat_history", "conversation_history")
QUESTION_KEYS = ("prompt", "instruction", "question", "query")
CONTEXT_KEYS = ("input", "context")
USER_KEYS = ("user", "user_id", "owner")


def unused_keys(row: Mapping[str, Any], used: Iterable[str]) -> list[str]:
    """A note for each key that the reader did not use. Raises BadRow if one of them changes what the prompt means.

    Where a key that was used holds chat messages, the same goes for the keys of each message.
    """
    used = set(used)
    notes = _unused(row, used, "")
    for key in used & row.keys():
        if isinstance(row[key], list):
            notes += [note for part in row[key] if _is_message(part) for note in _unused(part, _MESSAGE_KEYS, " of a message")]
    return sorted(notes)


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and ("role" in value or "from" in value)


def _unused(row: Mapping[str, Any], used: Iterable[str], where: str) -> list[str]:
    notes: list[str] = []
    for key in row.keys() - set(used):
        value = row[key]
        words = [word.lower() for word in re.findall(r"[^\W\d_][a-z]*|\d+", str(key))]
        if _is_empty(value) or not words or (words[-1] in _HARMLESS.split() and not _NEVER_HARMLESS.intersection(words)):
            continue
        if set(words).intersection(_MEANING.split()) and (value is True or not isinstance(value, int | float)):
            raise BadRow(f"the key {key!r}{where} may change what the prompt means, and this format does not read it")
        notes.append(f"{UNUSED}{key!r}{where} was not used")
    return notes


def _is_empty(value: object) -> bool:
    return value is None or value == [] or value == {} or (isinstance(value, str) and not value.strip())


def given_key(row: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    """The one of these keys that has a value, or None. Raises BadRow if several have different values."""
    given = [key for key in keys if not _is_empty(row.get(key))]
    if any(row[key] != row[given[0]] for key in given):
        raise BadRow(f"both {' and '.join(map(repr, given))}: which one is meant?")
    return given[0] if given else None


def user_of(row: Mapping[str, Any]) -> str | None:
    """Who submitted the prompt, as a row names them: text, or a whole number as tables have it."""
    key = given_key(row, USER_KEYS)
    return None if key is None else str(row[key]) if type(row[key]) is int else text_of(row, key)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a row asks: system message, earlier turns, question and context, as the turns of a prompt."""

    turns: tuple[Turn, ...]
    exact: bool
    """Whether the text is exactly the row's, every space included, as in TRL's text rows: the answer follows directly."""
    used: tuple[str, ...]
    """The keys that were read."""

    def answer(self, text: str) -> str:
        """An answer's text as records hold it."""
        return said(self.turns, text) if self.exact else response_text(self.turns, text)


def asked(row: Mapping[str, Any]) -> Asked | None:
    """What a row asks, or None if it has no key for a question. Raises BadRow.

    The question is text or a list of messages. A context or input follows it after an empty line. ``history`` is a list of
    earlier messages, or of pairs of what was asked and answered.
    """
    key = given_key(row, QUESTION_KEYS)
    if key is None:
        return None
    context = given_key(row, CONTEXT_KEYS)
    before = earlier_turns(row)
    if isinstance(row[key], list):
        if context is not None:
            raise BadRow(f"{key!r} is a list of messages, so it is not clear where {context!r} belongs")
        turns, exact = prompt_turns(joined(before, turns_of_messages(row[key]))), False
    elif key == "prompt" and context is None:
        spoken = turns_of(text_of(row, key))
        exact = not before
        turns = spoken if exact else prompt_turns(joined(before, list(spoken)))
    else:
        parts = [trimmed(text_of(row, name)) for name in (key, context) if name is not None]
        turns, exact = prompt_turns([*before, Turn("user", "\n\n".join(parts))]), False
    return Asked(turns, exact, (*QUESTION_KEYS, *CONTEXT_KEYS, *SYSTEM_KEYS, *HISTORY_KEYS))


def earlier_turns(row: Mapping[str, Any]) -> list[Turn]:
    """The turns before the question that have keys of their own: system message and history."""
    system, history = given_key(row, SYSTEM_KEYS), given_key(row, HISTORY_KEYS)
    turns = [] if system is None else [Turn("system", text_of(row, system))]
    return turns if history is None else joined(turns, _turns_of_history(row[history], history))


def _turns_of_history(history: object, key: str) -> list[Turn]:
    if not isinstance(history, list):
        raise BadRow(f"{key!r} should be a list of messages, or of pairs of question and answer, and is {shown(history)}")
    if all(isinstance(each, dict) for each in history):
        return turns_of_messages(history)
    turns: list[Turn] = []
    for each in history:
        if not (isinstance(each, list) and len(each) == 2 and all(isinstance(text, str) for text in each)):
            raise BadRow(f"{key!r} should hold pairs of question and answer and holds {shown(each)}")
        turns += [Turn("user", each[0]), Turn("assistant", each[1])]
    return turns


def joined(before: list[Turn], after: list[Turn]) -> list[Turn]:
    """Turns that follow each other. Raises BadRow if the system's message comes twice or in the middle."""
    if before and after and after[0].role == "system":
        if before[0] != after[0]:
            raise BadRow("two system messages, or one that is not the first message")
        after = after[1:]
    return before + after
