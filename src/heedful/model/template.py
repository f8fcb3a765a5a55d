"""How a conversation becomes tokens: the one place where prompts and responses meet a tokenizer.

A project has one template, and training, rollouts, scoring and evaluation all use it:

- ``plain``: the model continues the prompt's text (:func:`heedful.conversation.plain_text`);
- ``chat``: the model answers in the format of the tokenizer's own chat template.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from heedful.conversation import continuation, messages_of, said
from heedful.errors import ConfigError, DataError
from heedful.records import Prompt

Template = Literal["plain", "chat"]


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, beginning: bool) -> list[list[int]]:
    """Token ids of texts without special tokens, except a begin-of-text token if the tokenizer has its own.

    beginning: whether the texts begin a sequence; only then they get the begin-of-text token. GPT-2's is its end-of-text token
    and is not added (SPEC 3.1); Llama's is a token of its own and is.
    A text that spells a special token ("<|endoftext|>") stays text: nobody can end a document or a turn by typing it.
    """
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)[
        "input_ids"
    ]
    first = cast(int | None, tokenizer.bos_token_id)
    if beginning and first is not None and first != tokenizer.eos_token_id:
        return [[first, *row] for row in ids]
    return ids


def prompt_tokens(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], template: Template = "plain"
) -> list[list[int]]:
    """Token ids of each prompt, up to where the response begins.

    Raises ConfigError if the template is ``chat`` and the tokenizer has no chat template, and DataError for a prompt that the
    chat template cannot hold.
    """
    if template == "plain":
        return encode(tokenizer, [prompt.text for prompt in prompts], beginning=True)
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            'the template "chat" needs a tokenizer with a chat template',
            expected="chat_template in the model's folder",
            got="none",
            next_step='use a chat model, or set template = "plain" in heedful.toml',
        )
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return [_chat_tokens(tokenizer, prompt, special) for prompt in prompts]


def response_tokens(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], texts: Sequence[str], template: Template = "plain"
) -> list[list[int]]:
    """Token ids of a response's text to each prompt; what ends the response is added by the caller."""
    follows = continuation if template == "plain" else said
    texts = [follows(prompt.turns, text) for prompt, text in zip(prompts, texts, strict=True)]
    return encode(tokenizer, texts, beginning=False)


def _chat_tokens(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, special: set[str]) -> list[int]:
    # The rendered text is tokenised as a whole, so a special token in a turn would be one: it could end the turn.
    if spelt := sorted(token for token in special if any(token in turn.text for turn in prompt.turns)):
        raise DataError(
            f"the prompt {prompt.id!r} spells a special token of the chat template",
            expected="turns without special tokens",
            got=", ".join(spelt),
            next_step='reword or remove the prompt, or set template = "plain" in heedful.toml',
        )
    try:
        ids = tokenizer.apply_chat_template(messages_of(prompt.turns), add_generation_prompt=True, return_dict=False)
    except TemplateError as error:
        raise DataError(
            f"the chat template cannot hold the prompt {prompt.id!r}",
            expected="roles in the order that the tokenizer's chat template allows",
            got=f"{', '.join(turn.role for turn in prompt.turns)} ({error})",
            next_step='change its turns, or set template = "plain" in heedful.toml',
        ) from error
    return cast(list[int], ids)
