"""Turn conversations into tokens. Nothing else gives prompts and responses to a tokenizer.

A project has one template, which training, rollouts, scoring and evaluation all use:

- ``plain``: the model continues the prompt's text (:func:`heedful.conversation.plain_text`);
- ``chat``: the model answers in the format of the tokenizer's own chat template;
- the text of a Jinja template: the same, with this template (:mod:`heedful.model.chat_template`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import cast

from transformers import PreTrainedTokenizerBase

from heedful.conversation import continuation, said
from heedful.model.chat_template import (
    MARK,
    Template,
    answer_frame,
    answer_text,
    marked,
    rendered_prompts,
    special_tokens,
    unmarked,
    without_frame,
)
from heedful.records import Prompt


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts that begin a sequence.

    They begin with what the tokenizer itself puts in front of a text: Llama's begin-of-text token, nothing for GPT-2. What it
    would put at the end is left out, since the caller ends the sequence.
    A special token that is spelt in a text ("<|endoftext|>") stays text, so typing it cannot end a document or a turn.
    """
    first = _beginning(tokenizer) if texts else []
    return [[*first, *row] for row in _text_tokens(tokenizer, texts)]


def encode_after(tokenizer: PreTrainedTokenizerBase, befores: Sequence[str], texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, given the text before it.

    Both texts' tokens together are those of the whole text. (Alone, SentencePiece would put a space in front of the second.)
    The text before keeps the tokens that it has by itself, because a model that answers gets those. If a token of the whole
    text would span the boundary, the text is tokenised as if it followed a line break.
    """
    before_ids, whole = _text_tokens(tokenizer, befores), _text_tokens(tokenizer, _joined(befores, texts))
    return [_rest(tokenizer, *row) for row in zip(before_ids, whole, texts, strict=True)]


def decode_after(
    tokenizer: PreTrainedTokenizerBase,
    befores: Sequence[list[int]],
    rows: Sequence[list[int]],
    template: Template = "plain",
) -> list[str]:
    """The texts of token ids that follow other tokens, without special tokens: the inverse of :func:`encode_after`.

    SentencePiece drops a space at the start of what it decodes. To keep it, the tokens before are decoded too.
    template: what a chat template writes around an answer (a space, an empty block of reasoning) is left out.
    """
    frame = answer_frame(tokenizer, template)
    return [without_frame(text, frame) for text in _decoded_after(tokenizer, befores, rows)]


def _decoded_after(tokenizer: PreTrainedTokenizerBase, befores: Sequence[list[int]], rows: Sequence[list[int]]) -> list[str]:
    (space,) = encode_after(tokenizer, ["a"], [" a"])
    if tokenizer.decode(space, skip_special_tokens=True) != "a":
        return [str(text) for text in tokenizer.batch_decode(list(rows), skip_special_tokens=True)]
    before = tokenizer.batch_decode(list(befores), skip_special_tokens=True)
    whole = tokenizer.batch_decode([[*b, *row] for b, row in zip(befores, rows, strict=True)], skip_special_tokens=True)
    return [str(text)[len(start) :] for text, start in zip(whole, before, strict=True)]


def prompt_tokens(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], template: Template = "plain"
) -> list[list[int]]:
    """Token ids of each prompt, up to where the response begins.

    Raises ConfigError if the template is ``chat`` and the tokenizer has no chat template, or if it is not valid Jinja, and
    DataError if the chat template cannot hold a prompt.
    """
    if template == "plain":
        return encode(tokenizer, [prompt.text for prompt in prompts])
    return _chat_tokens(tokenizer, [text for _, text in rendered_prompts(tokenizer, template, prompts)])


def response_tokens(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], texts: Sequence[str], template: Template = "plain"
) -> list[list[int]]:
    """Token ids of the text of one response to each prompt, given the prompt. The caller adds the token that ends it.

    With a chat template they are the tokens of the whole conversation's text between the prompt and the token that ends the
    answer. Raises as :func:`prompt_tokens` does.
    """
    if template == "plain":
        texts = [continuation(prompt.turns, text) for prompt, text in zip(prompts, texts, strict=True)]
        return encode_after(tokenizer, [prompt.text for prompt in prompts], texts)
    frame, special = answer_frame(tokenizer, template), special_tokens(tokenizer)
    asked = rendered_prompts(tokenizer, template, prompts)
    answers = [
        answer_text(tokenizer, template, messages, before, marked(said(prompt.turns, text), special), frame)
        for prompt, (messages, before), text in zip(prompts, asked, texts, strict=True)
    ]
    befores = [before for _, before in asked]
    before_ids, whole = _chat_tokens(tokenizer, befores), _chat_tokens(tokenizer, _joined(befores, answers))
    return [_rest(tokenizer, *row) for row in zip(before_ids, whole, map(unmarked, answers), strict=True)]


# ---------------------------------------------------------------- the tokenizer


def _joined(befores: Sequence[str], texts: Sequence[str]) -> list[str]:
    return [before + text for before, text in zip(befores, texts, strict=True)]


def _rest(tokenizer: PreTrainedTokenizerBase, before: list[int], whole: list[int], text: str) -> list[int]:
    """The tokens of ``whole`` after those of ``before``; if a token spans the boundary, of ``text`` after a line break."""
    return whole[len(before) :] if whole[: len(before)] == before else _after_line_break(tokenizer, text)


def _after_line_break(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    line_break, whole, alone = _text_tokens(tokenizer, ["\n", f"\n{text}", text])
    return whole[len(line_break) :] if whole[: len(line_break)] == line_break else alone


def _beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that the tokenizer itself puts in front of a text."""
    given = tokenizer("a", return_special_tokens_mask=True, verbose=False)
    ids, added = cast(list[int], given["input_ids"]), cast(list[int], given["special_tokens_mask"])
    return ids[: [*added, 0].index(0)]


def _chat_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of rendered conversations. Special tokens of the template count as such; marked ones in turns are text."""
    return [
        _marked_tokens(tokenizer, text) if MARK in text else row
        for text, row in zip(texts, _ids(tokenizer, texts, split_special=False), strict=True)
    ]


def _marked_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    first, *others = text.split(MARK)
    line_break, *rows = _ids(tokenizer, ["\n", *(f"\n{piece}" for piece in others)], split_special=False)
    tokens = _ids(tokenizer, [first], split_special=False)[0]
    for piece, row in zip(others, rows, strict=True):
        follows = row[: len(line_break)] == line_break
        tokens += row[len(line_break) :] if follows else _ids(tokenizer, [piece], split_special=False)[0]
    return tokens


def _text_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    rows = _ids(tokenizer, texts, split_special=True)
    special = special_tokens(tokenizer)
    for i, text in enumerate(texts):
        spelt = [token for token in special if token in text]
        if any(tokenizer.convert_tokens_to_ids(token) in rows[i] for token in spelt):
            rows[i] = _broken_tokens(tokenizer, text, spelt)
    return rows


def _broken_tokens(tokenizer: PreTrainedTokenizerBase, text: str, spelt: Sequence[str]) -> list[int]:
    """Tokens of a text that spells special tokens, if the vocabulary also holds these as words (T5): each is cut in two."""
    pattern = "|".join(f"(?<={re.escape(token[0])})(?={re.escape(token[1:])})" for token in spelt)
    first, *others = _ids(tokenizer, re.split(pattern, text), split_special=True)
    return first + [token for row in others for token in row]


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, split_special: bool) -> list[list[int]]:
    if not texts:
        return []
    ids = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=split_special, verbose=False)["input_ids"]
    return cast(list[list[int]], ids)
