"""Conversations as tokens: what a tokenizer is given, and what it must not make of people's words."""

from __future__ import annotations

from typing import cast

import pytest
from tests.tiny import END, tiny_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from heedful.conversation import Turn, turns_of
from heedful.errors import ConfigError, DataError
from heedful.model.chat_template import Template
from heedful.model.scratch import train_tokenizer
from heedful.model.template import encode, encode_after, prompt_tokens, response_tokens
from heedful.records import Prompt

TOKENIZER = tiny_tokenizer()
CHAT = """{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}\
<|{{ m.role }}|> {{ m.content }} <|end|> {% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""


def chat_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]})
    tokenizer.chat_template = CHAT
    return tokenizer


def prompt(*turns: tuple[str, str]) -> Prompt:
    return Prompt(id="p", turns=tuple(Turn(*turn) for turn in turns))  # pyright: ignore[reportArgumentType]


def adding(begin: str, end: str = "") -> PreTrainedTokenizerFast:
    """A tokenizer that puts a token in front of each text, and one behind it where asked."""
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = begin
    ids = [(token, cast(int, tokenizer.convert_tokens_to_ids(token))) for token in (begin, end) if token]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{begin} $A {end}".strip(), special_tokens=ids)
    return tokenizer


def test_a_text_begins_as_the_tokenizer_begins_it() -> None:
    assert encode(TOKENIZER, ["w1 w2"]) == [[1, 2]]
    assert encode(adding("w9"), ["w1 w2", "w3"]) == [[9, 1, 2], [9, 3]]
    assert encode(adding("w9", end="<|endoftext|>"), ["w1"]) == [[9, 1]]  # the caller ends it
    assert encode(adding("<|endoftext|>"), ["w1"]) == [[END, 1]]  # OPT begins with its end-of-text
    assert encode_after(adding("w9"), ["w1"], ["w2"]) == [[2]]
    assert encode(TOKENIZER, []) == []


def test_a_begin_of_text_token_that_the_tokenizer_does_not_add_is_not_added() -> None:
    """add_bos_token = false: whoever loads the saved tokenizer gets none either."""
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = "w9"
    assert encode(tokenizer, ["w1 w2"]) == tokenizer(["w1 w2"])["input_ids"] == [[1, 2]]


def test_a_text_that_spells_end_of_text_is_only_text() -> None:
    """Known trap: a user or a model that writes "<|endoftext|>" would end the document, or forge the end of a turn."""
    tokenizer = train_tokenizer(["one two three four"] * 10, vocabulary_size=300, context_length=64)
    (row,) = encode(tokenizer, ["one <|endoftext|> two"])
    assert tokenizer.eos_token_id not in row
    assert tokenizer.decode(row) == "one <|endoftext|> two"


def test_plain_continues_the_text_of_the_conversation() -> None:
    lone, conversation = Prompt(id="a", turns=turns_of("w1 w2\n")), prompt(("user", "w1"), ("assistant", "w2"), ("user", "w3"))
    tokenizer = train_tokenizer(["Human: w1 Assistant: w2"] * 10, vocabulary_size=300, context_length=64)
    rows = prompt_tokens(tokenizer, [lone, conversation])
    assert [tokenizer.decode(row) for row in rows] == ["w1 w2\n", "Human: w1\n\nAssistant: w2\n\nHuman: w3\n\nAssistant:"]
    assert response_tokens(TOKENIZER, [lone], ["w4 w5"]) == [[4, 5]]


def test_a_response_begins_with_a_space_only_after_the_colon_of_a_plain_conversation() -> None:
    lone, conversation = Prompt(id="a", turns=turns_of("w1 w2\n")), prompt(("user", "w1"), ("assistant", "w2"), ("user", "w3"))
    tokenizer = train_tokenizer(["Human: w1 Assistant: w2"] * 10, vocabulary_size=300, context_length=64)
    tokenizer.chat_template = CHAT.replace("|> {{", "|>{{")  # no space of its own before an answer

    def text(of: Prompt, response: str, template: Template) -> str:
        (row,) = response_tokens(tokenizer, [of], [response], template)
        return str(tokenizer.decode(row))

    for held in ("w4", " w4"):  # older records hold the space
        assert text(conversation, held, "plain") == " w4"
        assert text(conversation, held, "chat") == "w4"
        assert text(lone, held, "plain") == text(lone, held, "chat") == held


def test_chat_is_the_tokenizers_own_template_up_to_where_the_answer_begins() -> None:
    tokenizer = chat_tokenizer()
    system, user, assistant, end = map(tokenizer.convert_tokens_to_ids, ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"])
    given = prompt(("system", "w5"), ("user", "w1 w2"), ("assistant", "w3"), ("user", "w4"))
    turns = [system, 5, end, user, 1, 2, end, assistant, 3, end, user, 4, end]
    assert prompt_tokens(tokenizer, [given], "chat") == [[*turns, assistant]]
    assert response_tokens(tokenizer, [given], ["w4 w5"], "chat") == [[4, 5]]


def test_chat_refuses_what_the_template_cannot_hold() -> None:
    with pytest.raises(ConfigError, match="needs a tokenizer with a chat template"):
        prompt_tokens(TOKENIZER, [prompt(("user", "w1"))], "chat")
    with pytest.raises(DataError, match="cannot hold the prompt 'p'"):
        prompt_tokens(chat_tokenizer(), [prompt(("user", "w1"), ("tool", "w2"))], "chat")
