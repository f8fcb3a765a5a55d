from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heedful.conversation import (
    Role,
    Turn,
    continuation,
    messages_of,
    opening,
    plain_text,
    prompt_turns,
    response_text,
    said,
    turns_of,
)

SEVERAL: list[Turn] = [Turn("user", "Hello"), Turn("assistant", "Hi!"), Turn("user", "Name a river.")]
CODE = "    if x:\n        return 1"


def rendered(turns: Iterable[tuple[Role, str]]) -> str:
    return plain_text(prompt_turns(turns))


def test_one_turn_is_its_text_and_a_newline() -> None:
    assert rendered([("user", "\n \nName a river. ")]) == "Name a river.\n"


def test_several_turns_end_where_the_assistant_goes_on() -> None:
    assert rendered(SEVERAL) == "Human: Hello\n\nAssistant: Hi!\n\nHuman: Name a river.\n\nAssistant:"


def test_a_system_message_stands_in_front() -> None:
    assert rendered([("system", "Be brief."), ("user", "Hi")]) == "Be brief.\n\nHi\n"
    assert rendered([("system", "Be brief."), *SEVERAL]) == "Be brief.\n\n" + rendered(SEVERAL)
    assert prompt_turns([("system", " "), ("user", "Hi")]) == (Turn("user", "Hi\n"),)


def test_what_a_tool_gave_back_is_a_turn_of_its_own() -> None:
    asked: list[Turn] = [Turn("user", "How warm is it?"), Turn("assistant", "I look."), Turn("tool", "12 degrees")]
    assert rendered(asked) == "Human: How warm is it?\n\nAssistant: I look.\n\nTool: 12 degrees\n\nAssistant:"


def test_indentation_is_kept_and_blank_lines_around_are_not() -> None:
    assert rendered([("user", f"\n  \n{CODE}\n\n")]) == f"{CODE}\n"
    turns = prompt_turns([("user", "Go on"), ("assistant", f"{CODE}\n"), ("user", f"\n{CODE} ")])
    assert turns == (Turn("user", "Go on"), Turn("assistant", CODE), Turn("user", CODE))
    assert plain_text(turns) == f"Human: Go on\n\nAssistant:{CODE}\n\nHuman:{CODE}\n\nAssistant:"
    assert turns_of(plain_text(turns)) == turns
    assert response_text(turns, f"\n{CODE}\n") == response_text(turns_of("Go on\n"), f"\n{CODE}\n") == CODE
    assert continuation(turns, CODE) == CODE


@pytest.mark.parametrize(
    ("prompt", "answer", "text", "continued"),
    [
        ("Name a river.\n", "The Rhine. \n", "The Rhine.", "The Rhine."),
        ("The longest river is", "the Nile.", " the Nile.", " the Nile."),
        ("Human: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", "The Rhine.\n", "The Rhine.", " The Rhine."),
        ("Human: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", " ", "", ""),
    ],
)
def test_a_response_continues_its_prompt(prompt: str, answer: str, text: str, continued: str) -> None:
    turns = turns_of(prompt)
    assert response_text(turns, answer) == text
    assert continuation(turns, text) == continuation(turns, continued) == continued
    assert said(turns, continued) == text


def test_a_lone_text_is_continued_as_it_is() -> None:
    for prompt, response in (("The sky is", "n't green"), ("Hi\n", " there"), ("Human: a\n\nAssistant:", "b")):
        assert continuation(turns_of(prompt), response) == said(turns_of(prompt), response) == response


_said = st.text(alphabet="ab :\n", min_size=1).map(str.strip).filter(bool)


@given(st.lists(st.tuples(_said, _said), max_size=3), _said, st.one_of(st.none(), _said))
def test_rendered_turns_are_read_back(before: list[tuple[str, str]], last: str, system: str | None) -> None:
    turns: list[Turn] = []
    if system and before:
        turns.append(Turn("system", system))
    for question, answer in before:
        turns.extend([Turn("user", question), Turn("assistant", answer)])
    turns.append(Turn("user", last))
    assert turns_of(rendered(turns)) == prompt_turns(turns)


def test_any_other_text_is_one_turn() -> None:
    assert turns_of("The sky is") == (("user", "The sky is"),)
    play = "Finish this play: Human: hello\n"
    assert turns_of(play) == (("user", play),)


def test_the_opening_is_what_was_said_before_the_first_response() -> None:
    assert opening(turns_of("Hello\n")) == opening(SEVERAL) == opening(turns_of("\n\nHuman: Hello\n\nAssistant:")) == "Hello"
    assert opening([Turn("system", "S"), *SEVERAL]) == opening(turns_of("S\n\nHello\n")) == "S\n\nHello"


@given(st.text())
def test_a_text_is_what_its_turns_say(text: str) -> None:
    assert plain_text(turns_of(text)) == text
    assert plain_text(turns_of(text + "\n\nAssistant:")) == text + "\n\nAssistant:"


def test_a_conversation_is_its_turns() -> None:
    assert turns_of(rendered(SEVERAL)) == tuple(SEVERAL)
    assert turns_of("Name a river.\n") == (Turn("user", "Name a river.\n"),)


def test_turns_as_chat_messages() -> None:
    assert messages_of(turns_of("Name a river.\n")) == [{"role": "user", "content": "Name a river."}]
    assert messages_of(SEVERAL)[1:] == [{"role": "assistant", "content": "Hi!"}, {"role": "user", "content": "Name a river."}]
