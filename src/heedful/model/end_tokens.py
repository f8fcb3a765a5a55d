"""Which tokens end a response: the one that training teaches, and all those at which generation stops."""

from __future__ import annotations

from typing import cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.model.chat_template import Template, answer_frame


def response_end(tokenizer: PreTrainedTokenizerBase, template: Template = "plain") -> int:
    """The token that ends a response in training and scoring.

    ``plain``: end-of-text. With a chat template: the first special or added token that it writes after an answer, or
    end-of-text if it writes none.
    """
    turn_end = None if template == "plain" else _turn_end(tokenizer, template)
    return _end_of_text(tokenizer) if turn_end is None else turn_end


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, template: Template = "chat") -> tuple[int, ...]:
    """All tokens that end a response, end-of-text first.

    They are the tokenizer's end-of-text, the token that ends a turn in the chat template (under ``plain``, in the tokenizer's
    own template), and every ``eos_token_id`` in ``config.json`` and ``generation_config.json``. Chat models list several.
    """
    turn_end = _turn_end(tokenizer, "chat" if template == "plain" else template)
    found = [_end_of_text(tokenizer), *([] if turn_end is None else [turn_end]), *model_end_tokens(model)]
    return tuple(dict.fromkeys(found))


def model_end_tokens(model: PreTrainedModel) -> list[int]:
    """Every ``eos_token_id`` in the model's ``config.json`` and ``generation_config.json``."""
    generation = getattr(model, "generation_config", None)
    return _ids(getattr(model.config, "eos_token_id", None)) + _ids(getattr(generation, "eos_token_id", None))


def config_end_tokens(model: PreTrainedModel) -> list[int]:
    """The end tokens in ``config.json``, and those in ``generation_config.json`` if it lists several.

    If ``generation_config.json`` has just one, transformers may have copied it from an older ``config.json``.
    """
    listed = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    own = _ids(getattr(model.config, "eos_token_id", None))
    return own + listed if own and isinstance(listed, list) else own


def spoken_tokens(tokens: list[int], ends: tuple[int, ...]) -> list[int]:
    """A generated response's tokens without the one that ended it.

    Decoding would not always skip that token, because it need not be a special token of the tokenizer.
    """
    return tokens[:-1] if tokens and tokens[-1] in ends else tokens


def _ids(value: int | list[int] | None) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)


def _end_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    end = tokenizer.eos_token_id
    assert isinstance(end, int)
    return end


def _turn_end(tokenizer: PreTrainedTokenizerBase, template: Template) -> int | None:
    """The first special or added token that the chat template writes after an answer; None if there is none."""
    frame = answer_frame(tokenizer, template)
    return None if frame is None or frame.end is None else cast(int, tokenizer.convert_tokens_to_ids(frame.end))
