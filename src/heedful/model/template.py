"""How a conversation becomes tokens: the one place where prompts and responses meet a tokenizer.

A project has one template, and training, rollouts, scoring and evaluation all use it:

- ``plain``: the model continues the prompt's text (:func:`heedful.conversation.plain_text`);
- ``chat``: the model answers in the format of the tokenizer's own chat template.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from heedful.conversation import continuation, messages_of, said
from heedful.errors import ConfigError, DataError
from heedful.records import Prompt

Template = Literal["plain", "chat"]


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts that begin a sequence.

    They begin with what the tokenizer itself puts in front of a text: Llama's begin-of-text token, nothing for GPT-2. What it
    puts at the end is left out, since the caller ends the sequence.
    A text that spells a special token ("<|endoftext|>") stays text: typing it cannot end a document or a turn.
    """
    first = _beginning(tokenizer) if texts else []
    return [[*first, *row] for row in _text_tokens(tokenizer, texts)]


def encode_after(tokenizer: PreTrainedTokenizerBase, befores: Sequence[str], texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text as it follows the text before it.

    The tokens of the two together are those of the whole text: SentencePiece puts no space in front of what follows a line
    break. The text before keeps the tokens that it has by itself, because a model that answers is given those. If a token of
    the whole text would span the boundary, the text is tokenised as if it followed a line break instead.
    """
    return _tokens_after(tokenizer, befores, texts, _text_tokens(tokenizer, befores), split_special=True)


def decode_after(tokenizer: PreTrainedTokenizerBase, befores: Sequence[list[int]], rows: Sequence[list[int]]) -> list[str]:
    """The texts of token ids that follow others, without special tokens: the opposite of :func:`encode_after`.

    SentencePiece drops a space at the start of what it decodes; the tokens before are decoded too, so that it is kept.
    """
    (space,) = encode_after(tokenizer, ["a"], [" a"])
    if tokenizer.decode(space, skip_special_tokens=True) != "a":
        return [str(text) for text in tokenizer.batch_decode(list(rows), skip_special_tokens=True)]
    before = tokenizer.batch_decode(list(befores), skip_special_tokens=True)
    whole = tokenizer.batch_decode([[*b, *row] for b, row in zip(befores, rows, strict=True)], skip_special_tokens=True)
    return [str(text)[len(start) :] for text, start in zip(whole, before, strict=True)]


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """How the tokenizer's special tokens are spelt. In data they stay text, which is rarely what was meant: it is counted."""
    return {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}


def prompt_tokens(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], template: Template = "plain"
) -> list[list[int]]:
    """Token ids of each prompt, up to where the response begins.

    Raises ConfigError if the template is ``chat`` and the tokenizer has no chat template, and DataError for a prompt that the
    chat template cannot hold.
    """
    if template == "plain":
        return encode(tokenizer, [prompt.text for prompt in prompts])
    return _ids(tokenizer, _rendered(tokenizer, prompts), split_special=False)


def response_tokens(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], texts: Sequence[str], template: Template = "plain"
) -> list[list[int]]:
    """Token ids of a response's text to each prompt, as it follows the prompt. The caller adds what ends the response."""
    if template == "plain":
        texts = [continuation(prompt.turns, text) for prompt, text in zip(prompts, texts, strict=True)]
        return encode_after(tokenizer, [prompt.text for prompt in prompts], texts)
    texts = [said(prompt.turns, text) for prompt, text in zip(prompts, texts, strict=True)]
    befores = _rendered(tokenizer, prompts)
    return _tokens_after(tokenizer, befores, texts, _ids(tokenizer, befores, split_special=False), split_special=False)


def _rendered(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[str]:
    """Each prompt in the format of the tokenizer's chat template, up to where the answer begins."""
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            'the template "chat" needs a tokenizer with a chat template',
            expected="chat_template in the model's folder",
            got="none",
            next_step='use a chat model, or set template = "plain" in heedful.toml',
        )
    special = special_tokens(tokenizer)
    return [_rendered_prompt(tokenizer, prompt, special) for prompt in prompts]


def _rendered_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, special: set[str]) -> str:
    # The rendered text is tokenised as a whole, so a special token in a turn would be one: it could end the turn.
    if spelt := sorted(token for token in special if any(token in turn.text for turn in prompt.turns)):
        raise DataError(
            f"the prompt {prompt.id!r} spells a special token of the chat template",
            expected="turns without special tokens",
            got=", ".join(spelt),
            next_step='reword or remove the prompt, or set template = "plain" in heedful.toml',
        )
    try:
        text = tokenizer.apply_chat_template(messages_of(prompt.turns), add_generation_prompt=True, tokenize=False)
    except TemplateError as error:
        raise DataError(
            f"the chat template cannot hold the prompt {prompt.id!r}",
            expected="roles in the order that the tokenizer's chat template allows",
            got=f"{', '.join(turn.role for turn in prompt.turns)} ({error})",
            next_step='change its turns, or set template = "plain" in heedful.toml',
        ) from error
    return cast(str, text)


def _tokens_after(
    tokenizer: PreTrainedTokenizerBase,
    befores: Sequence[str],
    texts: Sequence[str],
    before_ids: Sequence[list[int]],
    *,
    split_special: bool,
) -> list[list[int]]:
    """:func:`encode_after`; special tokens in the texts before are text (split_special) or, in a rendered chat, themselves."""
    whole_texts = [before + text for before, text in zip(befores, texts, strict=True)]
    if split_special:
        special, whole_ids = set[str](), _text_tokens(tokenizer, whole_texts)
    else:
        special, whole_ids = special_tokens(tokenizer), _ids(tokenizer, whole_texts, split_special=False)
    rows: list[list[int]] = []
    for text, before, whole in zip(texts, before_ids, whole_ids, strict=True):
        fits = whole[: len(before)] == before and not any(token in text for token in special)
        rows.append(whole[len(before) :] if fits else _tokens_after_line_break(tokenizer, text))
    return rows


def _tokens_after_line_break(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    line_break, whole, alone = _text_tokens(tokenizer, ["\n", f"\n{text}", text])
    return whole[len(line_break) :] if whole[: len(line_break)] == line_break else alone


def _beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts in front of a text."""
    given = tokenizer("a", return_special_tokens_mask=True, verbose=False)
    ids, added = cast(list[int], given["input_ids"]), cast(list[int], given["special_tokens_mask"])
    return ids[: [*added, 0].index(0)]


def _text_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    rows = _ids(tokenizer, texts, split_special=True)
    special = special_tokens(tokenizer)
    for i, text in enumerate(texts):
        spelt = [token for token in special if token in text]
        if any(tokenizer.convert_tokens_to_ids(token) in rows[i] for token in spelt):
            rows[i] = _broken_tokens(tokenizer, text, spelt)
    return rows


def _broken_tokens(tokenizer: PreTrainedTokenizerBase, text: str, spelt: Sequence[str]) -> list[int]:
    """Tokens of a text that spells special tokens, for vocabularies that hold these as words (T5's): each is cut in two."""
    pattern = "|".join(f"(?<={re.escape(token[0])})(?={re.escape(token[1:])})" for token in spelt)
    first, *others = _ids(tokenizer, re.split(pattern, text), split_special=True)
    return first + [token for row in others for token in row]


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, split_special: bool) -> list[list[int]]:
    if not texts:
        return []
    ids = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=split_special, verbose=False)["input_ids"]
    return cast(list[list[int]], ids)
