"""Solved language tasks as FLAN and T0 publish them: what is given, and what is wanted."""

from __future__ import annotations

from heedful.conversation import prompt_turns, response_text
from heedful.project.formats.row_keys import unused_keys
from heedful.project.formats.rows import BadRow, Draft, an_object, new_demonstration, new_prompt, text_of

SAMPLE = '{"inputs": "…", "targets": "…"}'
_PAIRS = (("inputs", "targets"), ("inputs_pretokenized", "targets_pretokenized"))


def read_task(row: object, labeler: str | None) -> Draft:
    """A prompt and a demonstration: ``inputs`` and ``targets``, or ``inputs_pretokenized`` and ``targets_pretokenized`` (T0).

    If a row has both pairs, the second is used: in T0's files, ``inputs`` are token ids. Raises BadRow.
    """
    row = an_object(row)
    keys = next((pair for pair in reversed(_PAIRS) if pair[0] in row), None)
    if keys is None:
        raise BadRow("no key 'inputs'")
    given, wanted = (text_of(row, key) for key in keys)
    prompt = new_prompt(prompt_turns([("user", given)]))
    answer = response_text(prompt.turns, wanted)
    used = [key for pair in _PAIRS for key in pair]
    return Draft([prompt, new_demonstration(prompt, answer, labeler or "tasks")], unused_keys(row, used))
