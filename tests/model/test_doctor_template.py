"""`heedful doctor` names what is wrong with a chat template, and what a template does that may surprise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
from tests.align.small_project import run
from tests.model.chat_templates import CHATML, FAMILIES, LLAMA3, OWN, QWEN3, tokenizer_of
from tests.model.test_chat_template import template_of
from tests.tiny import tiny_gpt2
from transformers import GenerationConfig, PreTrainedTokenizerFast

from heedful.errors import CheckError, ConfigError
from heedful.model.doctor_template import (
    examine_template,
    refuse_failed_template,
    refuse_wrong_template,
    template_checks,
)
from heedful.model.saving import save_model

MISTAKES = {"the prompt begins the conversation", "begin of text, once", "end of an answer"}


def chat(name: str, template: str | None = None) -> PreTrainedTokenizerFast:
    tokenizer = tokenizer_of(FAMILIES[name])
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


def found(tokenizer: PreTrainedTokenizerFast, template: str = "chat") -> dict[str, str]:
    return {check.name: check.found for check in template_checks(tokenizer, template) if check.found is not None}


@pytest.mark.parametrize("name", FAMILIES)
def test_published_templates_pass(name: str) -> None:
    checks = template_checks(tokenizer_of(FAMILIES[name]), template_of(name))
    wrong = {check.name for check in checks if check.failed}
    assert wrong == ({"begin of text, once"} if name in ("TinyLlama", "Phi-3", "OPT, template of the user's") else set())
    assert {check.name for check in checks if check.mistake} == MISTAKES


def test_a_prompt_that_does_not_begin_the_conversation_is_found() -> None:
    """As in templates that let a model begin with its reasoning, and drop that from the conversation."""
    wrong = CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n'")
    message = found(chat("Qwen2.5", wrong))["the prompt begins the conversation"]
    assert "assistant\\n<think>\\n" in message
    assert "An answer" in message
    with pytest.raises(CheckError, match="the chat template is wrong: the prompt begins the conversation"):
        refuse_failed_template(template_checks(chat("Qwen2.5", wrong), "chat"), "here")
    with pytest.raises(ConfigError, match="no model can be trained with this chat template"):
        refuse_wrong_template(chat("Qwen2.5", wrong), "chat", "here")
    refuse_wrong_template(chat("TinyLlama"), "chat", "here")  # training mends the begin of text


def test_a_lost_and_a_doubled_begin_of_text_are_found() -> None:
    assert "lost: the tokenizer begins every text with <s>" in found(chat("TinyLlama"))["begin of text, once"]
    twice = LLAMA3.replace("bos_token + content", "bos_token + bos_token + content")
    assert found(chat("Llama 3", twice))["begin of text, once"].startswith("doubled")
    assert "begin of text, once" not in found(chat("Llama 3"))


def test_a_lost_end_of_an_answer_is_found() -> None:
    none = "{% for m in messages %}{{ '### ' + m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}" + (
        "{% if add_generation_prompt %}### assistant: {% endif %}"
    )
    assert "no special token after an answer" in found(chat("Qwen2.5", none))["end of an answer"]
    tokenizer = chat("Qwen2.5")
    text_end, end = (cast(int, tokenizer.convert_tokens_to_ids(token)) for token in ("<|endoftext|>", "<|im_end|>"))
    names = {check.name for check in template_checks(tokenizer, "chat", {text_end}) if check.failed}
    assert names == {"end of an answer"}
    assert not any(check.failed for check in template_checks(tokenizer, "chat", {text_end, end}))


def test_a_template_that_changes_earlier_turns_is_found() -> None:
    assert "reasoning (<think>) of earlier answers is dropped" in found(chat("Qwen3"))["earlier turns stay"]
    last = CHATML.replace("+ '<|im_end|>'", "+ ('!' if loop.last and message['role'] == 'assistant' else '') + '<|im_end|>'")
    assert "written differently from the last" in found(chat("Qwen2.5", last))["earlier turns stay"]
    for name in ("Qwen2.5", "Llama 2", "Llama 3", "Gemma", "Phi-3"):  # Phi-3 ends the conversation, not the turn
        assert "earlier turns stay" not in found(chat(name))


def test_white_space_that_is_dropped_and_the_date_are_found() -> None:
    assert found(chat("Llama 3"))["words stand as written"] == "white space around a question and an answer is dropped"
    assert "words stand as written" not in found(chat("Qwen2.5"))
    dated = "{{ '<|im_start|>system\nToday is ' + strftime_now('%d %b %Y') + '<|im_end|>\n' }}" + CHATML
    assert "today's date" in found(chat("Qwen2.5", dated))["the same every day"]
    assert "the same every day" not in found(chat("Qwen3"))


def test_roles_that_the_template_refuses_or_leaves_out_are_named() -> None:
    assert "System role not supported" in found(chat("Gemma"))["system messages"]
    only = CHATML.replace("in messages %}", "in messages if message.role != 'tool' %}")
    assert found(chat("Qwen2.5", only))["tool turns"].startswith("left out of the text: tool")
    assert found(chat("Qwen2.5")) == {}


def test_the_command_shows_the_templates_checks_and_fails_with_them(tmp_path: Path) -> None:
    tokenizer = chat("Qwen2.5")
    model = tiny_gpt2(vocabulary=len(tokenizer))
    model.config.eos_token_id = tokenizer.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    save_model(model, tokenizer, tmp_path / "model")
    code, said = run("doctor", tmp_path / "model", "--precision", "float32")
    assert code == 0, said
    assert "chat template: end of an answer" in said
    assert "all 30 checks passed" in said

    listed = tmp_path / "model" / "generation_config.json"
    listed.write_text(json.dumps({"eos_token_id": tokenizer.eos_token_id}))
    code, said = run("doctor", tmp_path / "model", "--precision", "float32")
    assert code == 1
    assert "FAILED: lost: generation_config.json does not list <|im_end|>" in said

    (tmp_path / "own.jinja").write_text(OWN)
    code, said = run("doctor", tmp_path / "model", "--precision", "float32", "--template", tmp_path / "own.jinja")
    assert code == 0, said
    assert examine_template(tmp_path / "model", "plain") == []
    code, said = run("doctor", tmp_path / "model", "--template", tmp_path / "none.jinja")
    assert code == 2
    assert "none.jinja" in said


def test_reasoning_templates_can_be_trained() -> None:
    """Qwen3 drops earlier reasoning, which is no mistake: a model that answers is given the same prompt."""
    refuse_wrong_template(chat("Qwen3"), "chat", "here")
    assert QWEN3 in str(chat("Qwen3").chat_template)
