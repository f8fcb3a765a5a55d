from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heedful.conversation import Turn, continuation, opening, parse_prompt, plain_text, render_prompt, turns_of

SEVERAL: list[Turn] = [Turn("user", "Hello"), Turn("assistant", "Hi!"), Turn("user", "Name a river.")]


def test_one_turn_is_its_text_and_a_newline() -> None:
    assert render_prompt([("user", " Name a river. ")]) == "Name a river.\n"


def test_several_turns_end_where_the_assistant_goes_on() -> None:
    assert render_prompt(SEVERAL) == "Human: Hello\n\nAssistant: Hi!\n\nHuman: Name a river.\n\nAssistant:"


def test_a_system_message_stands_in_front() -> None:
    assert render_prompt([("system", "Be brief."), ("user", "Hi")]) == "Be brief.\n\nHi\n"
    assert render_prompt([("system", "Be brief."), *SEVERAL]) == "Be brief.\n\n" + render_prompt(SEVERAL)


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("Name a river.\n", " The Rhine. ", "The Rhine."),
        ("Human: a\n\nAssistant:", "The Rhine.\n", " The Rhine."),
        ("Human: a\n\nAssistant:", " ", ""),
    ],
)
def test_an_answer_continues_its_prompt(prompt: str, answer: str, expected: str) -> None:
    assert continuation(prompt, answer) == expected


_said = st.text(alphabet="ab :\n", min_size=1).map(str.strip).filter(bool)


@given(st.lists(st.tuples(_said, _said), max_size=3), _said, st.one_of(st.none(), _said))
def test_rendered_turns_are_read_back(before: list[tuple[str, str]], last: str, system: str | None) -> None:
    turns: list[Turn] = []
    if system and before:
        turns.append(Turn("system", system))
    for question, answer in before:
        turns.extend([Turn("user", question), Turn("assistant", answer)])
    turns.append(Turn("user", last))
    assert parse_prompt(render_prompt(turns)) == turns


def test_any_other_text_is_one_turn() -> None:
    assert parse_prompt("The sky is") == [("user", "The sky is")]
    assert parse_prompt("Finish this play: Human: hello\n") == [("user", "Finish this play: Human: hello")]


def test_the_opening_is_the_first_turn_alone_or_in_a_dialogue() -> None:
    assert opening("Hello\n") == opening(render_prompt(SEVERAL)) == "Hello"
    assert opening(render_prompt([("system", "S"), *SEVERAL])) == opening("S\n\nHello\n")


@given(st.text())
def test_a_text_is_what_its_turns_say(text: str) -> None:
    assert plain_text(turns_of(text)) == text
    assert plain_text(turns_of(text + "\n\nAssistant:")) == text + "\n\nAssistant:"


def test_a_conversation_is_its_turns() -> None:
    assert turns_of(render_prompt(SEVERAL)) == tuple(SEVERAL)
    assert turns_of("Name a river.\n") == (Turn("user", "Name a river.\n"),)
