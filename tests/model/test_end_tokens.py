"""Every token that ends a response does so everywhere; training teaches one of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from tests.model.test_template import chat_tokenizer
from tests.tiny import END, VOCABULARY, tiny_gpt2, tiny_llama, tiny_tokenizer
from transformers import GenerationConfig, PreTrainedModel

from heedful.conversation import turns_of
from heedful.evaluate.benchmarks.abilities import score_items
from heedful.model import Sampling, generate, load_causal_model, save_model
from heedful.model.answering import Answerer, score_responses
from heedful.model.encoding import encode_demonstrations, encode_rankings
from heedful.model.end_tokens import end_tokens, response_end
from heedful.model.loading import check_tokenizer
from heedful.model.readout import score
from heedful.model.scalar_models import scalar_model_from_causal
from heedful.records import Demonstration, Prompt, Ranking, Response
from heedful.training.config import PPOConfig, SFTConfig
from heedful.training.rollouts import generate as roll_out

TOKENIZER = tiny_tokenizer()
TURN_END = 9  # the word w9, which the tokenizer does not know as a special token


def model_with_two_ends() -> PreTrainedModel:
    model = tiny_gpt2()
    model.generation_config = GenerationConfig(eos_token_id=[TURN_END, END])
    return model


def test_the_ends_are_those_of_tokenizer_template_config_and_generation_config() -> None:
    assert end_tokens(tiny_gpt2(), TOKENIZER) == (END,)
    model = model_with_two_ends()
    assert end_tokens(model, TOKENIZER) == (END, TURN_END)
    model.config.eos_token_id = [END, 11]
    assert end_tokens(model, TOKENIZER) == (END, 11, TURN_END)
    chat = chat_tokenizer()
    assert end_tokens(tiny_gpt2(), chat) == (END, chat.convert_tokens_to_ids("<|end|>"))


@pytest.mark.parametrize(
    ("template", "end"),
    [
        ("{% for m in messages %}<|user|>{{ m.content }}<|end|>\n{% endfor %}<|endoftext|>", "<|end|>"),  # Phi-3
        ("{% for m in messages %}{{ m.content }} <|endoftext|>{% endfor %}", "<|endoftext|>"),  # Llama 2
        ("{% for m in messages %}### {{ m.role }}: {{ m.content }}\n{% endfor %}", "<|endoftext|>"),  # no special token
        ("{% for m in messages %}{{ raise_exception('no') }}{% endfor %}", "<|endoftext|>"),
    ],
)
def test_chat_teaches_what_the_template_writes_after_an_answer(template: str, end: str) -> None:
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = template
    assert response_end(tokenizer, "chat") == tokenizer.convert_tokens_to_ids(end)
    assert response_end(tokenizer, "plain") == END


def test_training_and_scoring_end_a_response_with_the_token_that_the_template_ends_a_turn_with() -> None:
    tokenizer = chat_tokenizer()
    end = response_end(tokenizer, "chat")
    prompts = {"p": Prompt(id="p", turns=turns_of("w1 w2"))}
    limits: dict[str, Any] = {"max_prompt_tokens": 9, "max_response_tokens": 9}
    said = [Demonstration(id="d", prompt_id="p", text="w3", labeler="a")]
    assert encode_demonstrations(tokenizer, prompts, said, template="chat", **limits)[0][0].response == [3, end]
    assert encode_demonstrations(tokenizer, prompts, said, **limits)[0][0].response == [3, END]
    responses = {name: Response(id=name, prompt_id="p", text=text) for name, text in (("a", "w3"), ("b", "w4"))}
    ranking = Ranking(id="k", prompt_id="p", response_ids=("a", "b"), ranks=(1, 2), labeler="x")
    ranked, _ = encode_rankings(tokenizer, prompts, responses, [ranking], template="chat", **limits)
    assert ranked[0].responses == [[3, end], [4, end]]
    torch.manual_seed(0)
    reward_model = scalar_model_from_causal(tiny_gpt2(vocabulary=VOCABULARY + 8), pad_token_id=None, eos_token_id=END)
    scores = score_responses(reward_model, tokenizer, prompts, [responses["a"]], max_response_tokens=9, template="chat")
    assert scores["a"] == score(reward_model, [ranked[0].prompt], [[3, end]]).item()


def test_every_end_token_ends_what_the_engine_generates() -> None:
    model = tiny_gpt2(scale=0.05)
    biased = Sampling(max_tokens=40, logit_bias={END: 2.0, TURN_END: 2.0}, stop_tokens=(END, TURN_END))
    generations = generate(model, [[5, 6]] * 40, biased, list(range(40)))
    assert {g.tokens[-1] for g in generations if g.finished} == {END, TURN_END}
    assert all(not {END, TURN_END} & set(g.tokens[:-1]) for g in generations)


def always(token: int) -> PreTrainedModel:
    """A model with two ends that says ``token`` whatever it is given."""
    model = model_with_two_ends()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.get_parameter("transformer.ln_f.bias")[0] = 1.0
        model.get_parameter("transformer.wte.weight")[token, 0] = 50.0
    return model


def test_answers_rollouts_and_benchmarks_end_there_and_do_not_spell_the_end() -> None:
    model = always(TURN_END)
    prompt = Prompt(id="p", turns=turns_of("w1 w2"))
    limits = SFTConfig(max_prompt_tokens=4, max_response_tokens=6)
    (response,) = Answerer(model, TOKENIZER, limits).answer([prompt], name="m", ids=["r"], temperature=0.0, seed=0)
    assert (response.text, response.finished) == ("", True)
    config = PPOConfig(batch_size=2, minibatches=1, max_response_tokens=6)
    rollouts = roll_out(model, TOKENIZER, [[1, 2]] * 2, [0, 1], config)
    assert [(rollout.tokens, rollout.finished) for rollout in rollouts] == [([TURN_END], True)] * 2
    benchmark = SimpleNamespace(kind="completion", items=(SimpleNamespace(context="w1", accepted=("",)),))
    assert score_items(model, TOKENIZER, cast(Any, benchmark)) == [1.0]


@pytest.mark.parametrize("end", [END, TURN_END, 11, VOCABULARY + 3], ids=["text", "generation_config", "config", "turn"])
def test_each_of_several_end_tokens_ends_an_answer(end: int) -> None:
    """End-of-text, the one of generation_config.json, another of config.json, and the one that ends a turn in the template."""
    tokenizer = chat_tokenizer()
    assert tokenizer.convert_tokens_to_ids("<|end|>") == VOCABULARY + 3
    model = tiny_gpt2(vocabulary=VOCABULARY + 8)
    model.config.eos_token_id = [END, 11]
    model.generation_config = GenerationConfig(eos_token_id=[TURN_END, END])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.get_parameter("transformer.ln_f.bias")[0] = 1.0
        model.get_parameter("transformer.wte.weight")[end, 0] = 50.0
    prompt = Prompt(id="p", turns=turns_of("w1 w2"))
    answerer = Answerer(model, tokenizer, SFTConfig(max_prompt_tokens=9, max_response_tokens=6), template="chat")
    (response,) = answerer.answer([prompt], name="m", ids=["r"], temperature=0.0, seed=0)
    assert (response.text, response.finished) == ("", True)


def test_a_padding_token_that_ends_responses_is_left_unset_in_a_reward_model() -> None:
    """Plain transformers would read the score one token too early."""
    scalar = scalar_model_from_causal(model_with_two_ends(), pad_token_id=TURN_END, eos_token_id=END)
    assert scalar.config.pad_token_id is None


def test_a_saved_model_lists_all_ends_for_whoever_generates_with_it(tmp_path: Path) -> None:
    chat = chat_tokenizer()
    model = tiny_gpt2(vocabulary=VOCABULARY + 8)
    save_model(model, chat, tmp_path / "model")
    read = GenerationConfig.from_pretrained(tmp_path / "model")
    assert read.eos_token_id == [END, chat.convert_tokens_to_ids("<|end|>")]
    assert end_tokens(load_causal_model(tmp_path / "model"), chat) == end_tokens(model, chat)
    save_model(tiny_gpt2(), TOKENIZER, tmp_path / "one")
    assert GenerationConfig.from_pretrained(tmp_path / "one").eos_token_id == END


def test_a_tokenizers_end_of_text_that_only_generation_config_names_is_the_models() -> None:
    model = tiny_llama()
    model.config.eos_token_id = 11
    model.generation_config = GenerationConfig(eos_token_id=[11, END])
    check_tokenizer(model, TOKENIZER, "here")
