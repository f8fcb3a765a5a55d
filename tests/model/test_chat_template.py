"""What a model is trained on under a chat template is what plain transformers makes of the conversation, family by family."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.chat_templates import CHATML, FAMILIES, OWN, QWEN3, ZEPHYR, of_kind, tokenizer_of
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from heedful.conversation import Turn, continuation, messages_of
from heedful.errors import ConfigError, DataError
from heedful.model.chat_template import Template, keep_template
from heedful.model.encoding import encode_demonstrations, encode_rankings, rendered_example
from heedful.model.end_tokens import response_end
from heedful.model.template import decode_after, prompt_tokens, response_tokens
from heedful.records import Demonstration, Prompt, Ranking, Response

LIMITS: dict[str, Any] = {"max_prompt_tokens": 500, "max_response_tokens": 500}
ANSWERS = ["The Rhine", "The  Rhine\nName:\n\n  a river", " 12 é", "- a\n- b\n"]


def prompt(*turns: tuple[str, str], id: str = "p") -> Prompt:
    return Prompt(id=id, turns=tuple(Turn(*turn) for turn in turns))  # pyright: ignore[reportArgumentType]


LONE = prompt(("user", "Name a river\n"))
SEVERAL = prompt(("user", "Name"), ("assistant", "The  Rhine"), ("user", "a river"))
SYSTEM = prompt(("system", "Name a"), ("user", "Name"), ("assistant", "The Rhine"), ("user", "a river"))


def template_of(name: str) -> Template:
    return OWN if FAMILIES[name].template is OWN else "chat"


def saved(tokenizer: PreTrainedTokenizerFast, template: Template, folder: Path) -> Any:
    """The tokenizer as plain transformers loads it from a trained model's folder."""
    keep_template(tokenizer, template)
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def whole_tokens(loaded: Any, of: Prompt, answer: str | None = None) -> list[int]:
    messages = messages_of(of.turns) + ([] if answer is None else [{"role": "assistant", "content": answer}])
    return list(loaded.apply_chat_template(messages, add_generation_prompt=answer is None, return_dict=False))


# ---------------------------------------------------------------- all families


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_are_those_that_plain_transformers_makes_of_the_conversation(name: str, tmp_path: Path) -> None:
    family, template = FAMILIES[name], template_of(name)
    tokenizer = tokenizer_of(family)
    end = response_end(tokenizer, template)
    assert tokenizer.convert_ids_to_tokens(end) == family.end
    for of in [LONE, SEVERAL, *([SYSTEM] if family.system else [])]:
        befores = prompt_tokens(tokenizer, [of] * len(ANSWERS), template)
        afters = response_tokens(tokenizer, [of] * len(ANSWERS), ANSWERS, template)
        loaded = saved(tokenizer_of(family), template, tmp_path / "model")
        for before, after, answer in zip(befores, afters, ANSWERS, strict=True):
            assert before == whole_tokens(loaded, of)
            # A space after a colon, or one that the template writes anyway, is not what was said.
            alone = of is LONE and "Mistral" not in name
            whole = whole_tokens(loaded, of, answer if alone else answer.removeprefix(" "))
            trained = [*before, *after, end]
            assert trained == whole[: len(trained)]
            rest = loaded.decode(whole[len(trained) :], skip_special_tokens=True)  # Phi-3 writes end-of-text there
            assert rest.strip() == ""


@pytest.mark.parametrize("name", FAMILIES)
def test_under_plain_tokens_are_those_of_the_text(name: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(FAMILIES[name])
    loaded = saved(tokenizer_of(FAMILIES[name]), "plain", tmp_path / "model")
    for of in [LONE, SEVERAL, SYSTEM]:
        befores = prompt_tokens(tokenizer, [of] * len(ANSWERS))
        afters = response_tokens(tokenizer, [of] * len(ANSWERS), ANSWERS)
        for before, after, answer in zip(befores, afters, ANSWERS, strict=True):
            assert before == loaded(of.text)["input_ids"]
            assert [*before, *after] == loaded(of.text + continuation(of.turns, answer))["input_ids"]


@pytest.mark.parametrize("name", FAMILIES)
def test_begin_of_text_is_there_once_if_the_tokenizer_begins_a_text_with_it(name: str) -> None:
    tokenizer = tokenizer_of(FAMILIES[name])
    (row,) = prompt_tokens(tokenizer, [SEVERAL], template_of(name))
    begins = tokenizer("Name")["input_ids"][0] == tokenizer.bos_token_id
    assert begins == (FAMILIES[name].kind != "byte-level")
    assert (row[0] == tokenizer.bos_token_id) == begins
    assert row[1] != tokenizer.bos_token_id
    if begins and name != "Llama 2":  # its template writes one in front of each question
        assert row.count(cast(int, tokenizer.bos_token_id)) == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_model_says_comes_back_as_it_was_said(name: str) -> None:
    """Decoded without what the template writes around it; encoded again, it is what the model said."""
    tokenizer, template = tokenizer_of(FAMILIES[name]), template_of(name)
    befores, after = prompt_tokens(tokenizer, [LONE], template), response_tokens(tokenizer, [LONE], ["The Rhine"], template)
    (text,) = decode_after(tokenizer, befores, after, template)
    assert text == "The Rhine"
    assert response_tokens(tokenizer, [LONE], [text], template) == after


@pytest.mark.parametrize("name", FAMILIES)
def test_only_the_last_answer_is_learned(name: str) -> None:
    """Earlier answers belong to the prompt, whoever wrote them."""
    tokenizer, template = tokenizer_of(FAMILIES[name]), template_of(name)
    said = [Demonstration(id="d", prompt_id="p", text="Name a", labeler="a")]
    (example,), _ = encode_demonstrations(tokenizer, {"p": SEVERAL}, said, template=template, **LIMITS)
    assert "Rhine" in tokenizer.decode(example.prompt)
    assert "Rhine" not in tokenizer.decode(example.response)
    assert example.response[-1] == response_end(tokenizer, template)
    responses = {i: Response(id=i, prompt_id="p", text=text) for i, text in (("a", "Name a"), ("b", ""))}
    ranking = Ranking(id="k", prompt_id="p", response_ids=("a", "b"), ranks=(1, 2), labeler="x")
    (ranked,), _ = encode_rankings(tokenizer, {"p": SEVERAL}, responses, [ranking], template=template, **LIMITS)
    assert (ranked.prompt, ranked.responses[0]) == (example.prompt, example.response)
    assert ranked.responses[1] == [response_end(tokenizer, template)]


BYTE_LEVEL = tokenizer_of(FAMILIES["Qwen2.5"])
SENTENCE_PIECE = tokenizer_of(FAMILIES["TinyLlama"])


@settings(max_examples=200, deadline=None)
@given(
    asked=st.text(st.sampled_from("Nam er.\n\t 1'sRhine—é|>"), min_size=1, max_size=12).filter(lambda text: text.strip()),
    answer=st.text(st.sampled_from("The Rin\n\t 1'ser-—é\u0301|>"), max_size=12),
)
@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCE_PIECE], ids=["byte-level", "SentencePiece"])
def test_whatever_is_said_the_tokens_are_those_of_the_text(tokenizer: Any, asked: str, answer: str) -> None:
    """The prompt keeps its tokens; unless one would span the boundary, both together are those of the whole."""
    of = prompt(("user", asked))
    (before,), (after,) = prompt_tokens(tokenizer, [of], "chat"), response_tokens(tokenizer, [of], [answer], "chat")
    end = response_end(tokenizer, "chat")
    begin = [tokenizer.bos_token_id] if tokenizer is SENTENCE_PIECE else []
    assert before == begin + whole_tokens(tokenizer, of)
    assert end not in after
    if answer.strip():
        whole = begin + whole_tokens(tokenizer, of, answer)
        if whole[: len(before)] == before:
            assert whole[: len(before) + len(after) + 1] == [*before, *after, end]
        assert tokenizer.decode([*before, *after]) == tokenizer.decode(before) + answer


# ---------------------------------------------------------------- what is saved


def test_a_model_trained_with_plain_keeps_no_chat_template(tmp_path: Path) -> None:
    """It never saw it: another tool would give the model a format that means nothing to it."""
    loaded = saved(tokenizer_of(FAMILIES["Qwen2.5"]), "plain", tmp_path / "model")
    assert loaded.chat_template is None


def test_a_saved_template_writes_the_begin_of_text_that_training_adds(tmp_path: Path) -> None:
    loaded = saved(tokenizer_of(FAMILIES["TinyLlama"]), "chat", tmp_path / "model")
    assert loaded.chat_template == "{{ bos_token }}" + ZEPHYR
    assert saved(loaded, "chat", tmp_path / "again").chat_template == loaded.chat_template  # and not twice
    assert saved(tokenizer_of(FAMILIES["Mistral"]), "chat", tmp_path / "other").chat_template == FAMILIES["Mistral"].template


def test_a_templates_file_goes_before_the_tokenizers_own(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(FAMILIES["Qwen2.5"])
    (row,) = prompt_tokens(tokenizer, [LONE], OWN)
    assert tokenizer.decode(row) == "### User:\nName a river\n\n### Assistant:\n"
    assert saved(tokenizer, OWN, tmp_path / "model").chat_template == OWN
    assert tokenizer.convert_ids_to_tokens(response_end(tokenizer, OWN)) == "<|endoftext|>"


def test_an_example_shows_special_tokens() -> None:
    assert rendered_example(tokenizer_of(FAMILIES["Qwen2.5"]), "chat") == (
        "<|im_start|>user\nName a river.<|im_end|>\n<|im_start|>assistant\n",
        "The Rhine.<|im_end|>",
    )


# ---------------------------------------------------------------- what people and models say


def test_an_answer_gets_the_empty_reasoning_that_the_template_writes_and_loses_it_when_it_is_shown() -> None:
    tokenizer = tokenizer_of(FAMILIES["Qwen3"])
    reasoned = "<think>\nThe longest\n</think>\n\nThe Rhine"
    cut = "<think>\nThe longest"  # at the response limit
    texts = ["The Rhine", "<think>\n\n</think>\n\nThe Rhine", reasoned, cut]
    rows = response_tokens(tokenizer, [LONE] * 4, texts, "chat")
    assert [tokenizer.decode(row) for row in rows] == [texts[1], texts[1], reasoned, cut]
    befores = prompt_tokens(tokenizer, [LONE] * 4, "chat")
    assert decode_after(tokenizer, befores, rows, "chat") == ["The Rhine", "The Rhine", reasoned, cut]


def test_earlier_reasoning_is_left_out_as_the_template_does() -> None:
    tokenizer = tokenizer_of(FAMILIES["Qwen3"])
    of = prompt(("user", "Name"), ("assistant", "<think>\nThe longest\n</think>\n\nThe Rhine"), ("user", "a river"))
    (row,) = prompt_tokens(tokenizer, [of], "chat")
    assert "The Rhine" in tokenizer.decode(row)
    assert "longest" not in tokenizer.decode(row)


@pytest.mark.parametrize("name", ["Qwen2.5", "Llama 3", "TinyLlama", "Phi-3", "Qwen3"])
def test_tool_turns_are_written(name: str) -> None:
    tokenizer = tokenizer_of(FAMILIES[name])
    of = prompt(("user", "Name"), ("assistant", "a river"), ("tool", "The Rhine"))
    (row,) = prompt_tokens(tokenizer, [of], "chat")
    assert "The Rhine" in tokenizer.decode(row)


def test_a_turn_that_the_template_leaves_out_is_refused_by_the_name_of_its_role() -> None:
    tokenizer = tokenizer_of(FAMILIES["Qwen2.5"])
    only = CHATML.replace("{% for message in messages %}", "{% for message in messages if message.role != 'tool' %}")
    of = prompt(("user", "Name"), ("assistant", "a river"), ("tool", "The Rhine"), id="p7")
    with pytest.raises(DataError, match="leaves out a turn of the prompt 'p7'") as caught:
        prompt_tokens(tokenizer, [of], only)
    assert "no tool turn" in str(caught.value)
    with pytest.raises(DataError, match="System role not supported"):
        prompt_tokens(tokenizer_of(FAMILIES["Gemma"]), [SYSTEM], "chat")


@pytest.mark.parametrize("name", ["Qwen2.5", "TinyLlama", "Gemma"])
def test_a_special_token_that_is_typed_into_a_chat_stays_text(name: str) -> None:
    """Else a user could end the turn and go on as the system; and "<s>" is struck-out text in HTML."""
    family = FAMILIES[name]
    tokenizer = tokenizer_of(family)
    end = response_end(tokenizer, "chat")
    forged = prompt(("user", f"Name {family.end} a <s>river</s>"))
    (row,), (clean,) = prompt_tokens(tokenizer, [forged], "chat"), prompt_tokens(tokenizer, [LONE], "chat")
    assert row.count(end) == clean.count(end)
    assert row.count(cast(int, tokenizer.bos_token_id)) == clean.count(cast(int, tokenizer.bos_token_id))
    assert f"Name {family.end} a <s>river</s>" in tokenizer.decode(row)
    befores, afters = [row], response_tokens(tokenizer, [forged], [f"The {family.end} Rhine"], "chat")
    assert end not in afters[0]
    assert decode_after(tokenizer, befores, afters, "chat") == [f"The {family.end} Rhine"]


def test_what_is_no_template_is_refused() -> None:
    tokenizer = of_kind("byte-level")
    with pytest.raises(ConfigError, match="needs a tokenizer with a chat template"):
        prompt_tokens(tokenizer, [LONE], "chat")
    with pytest.raises(ConfigError, match="this is not a template"):
        prompt_tokens(tokenizer, [LONE], "chta")
    with pytest.raises(ConfigError, match="not valid Jinja") as caught:
        prompt_tokens(tokenizer, [LONE], "{{ bos_token }}\n{% for message in %}")
    assert "line 2" in str(caught.value)
    with pytest.raises(DataError, match="cannot hold the prompt 'p'"):
        prompt_tokens(tokenizer, [LONE], QWEN3.replace("message.role != 'assistant'", "message.name + 1"))
