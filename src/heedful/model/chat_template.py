"""Render conversations with a chat template, and find the answer in the rendered text.

The template is the tokenizer's own ("chat") or the text of a Jinja file that the project names. Plain transformers and vLLM
render the same text, because the saved tokenizer holds the template (:func:`keep_template`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from jinja2 import TemplateError, TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from heedful.conversation import messages_of
from heedful.errors import ConfigError, DataError
from heedful.records import Prompt

Template = str
"""``plain``, ``chat``, or the text of a Jinja template."""

Messages = list[dict[str, str]]

REFUSALS = (TemplateError, TypeError, ValueError, AttributeError, LookupError)
"""What a chat template raises for a conversation that it cannot hold (TemplateError if on purpose, else the others)."""

MARK = "\ufdd0"
"""Put inside any text of a turn that spells a special token. Without it, the rendered text would contain that token, which
could end the turn.

Unicode guarantees that this code point is never a character."""

_SAID = "xyz"


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The spellings of the tokenizer's special tokens. In data they stay text; that is rarely intended, so it is counted."""
    return {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}


def marked(text: str, special: set[str]) -> str:
    """The text with a mark inside each spelling of a special token."""
    for token in sorted(special, key=len, reverse=True):
        text = text.replace(token, token[0] + MARK + token[1:])
    return text


def unmarked(text: str) -> str:
    """The text without marks."""
    return text.replace(MARK, "")


class Frame(NamedTuple):
    """What a chat template writes around an answer, from the place where a model begins to answer to the next turn."""

    before: str
    """Usually empty; else white space (Mistral), an empty block of reasoning (Qwen3) or the like."""
    after: str
    """Everything after the answer's text, for example "<|im_end|>\\n"."""
    end: str | None
    """The first special or added token of ``after``; None if there is none."""

    @property
    def before_end(self) -> str:
        """What stands between the answer's text and the token that ends it (a space in Llama 2); empty without such a token."""
        return "" if self.end is None else self.after[: self.after.index(self.end)]


def jinja_of(tokenizer: PreTrainedTokenizerBase, template: Template) -> str | None:
    """The text of the Jinja template in use; None for ``plain``, and for ``chat`` if the tokenizer has no template."""
    if template == "plain":
        return None
    if template != "chat":
        return template
    own = cast(str | Mapping[str, str] | None, getattr(tokenizer, "chat_template", None))
    return own.get("default") if isinstance(own, Mapping) else own or None


def keep_template(tokenizer: PreTrainedTokenizerBase, template: Template) -> None:
    """Store the template that the model is trained with in the tokenizer, so that other tools find it in the saved model.

    ``plain`` removes the tokenizer's chat template, since the model is not trained with it. For any other template: if the
    tokenizer begins every text with its begin-of-text token and the template does not write that token, it is added to the
    stored template. Raises ConfigError if the template is not valid Jinja.
    """
    text = jinja_of(tokenizer, template)
    if text is None:
        tokenizer.chat_template = None
        return
    try:
        written = rendered_raw(tokenizer, template, [{"role": "user", "content": _SAID}], answer_begins=True)
    except REFUSALS:  # for example, it requires a system message
        written = begin_of_text(tokenizer)
    if not written.startswith(begin_of_text(tokenizer)):
        text = "{{ bos_token }}" + text
    if text != jinja_of(tokenizer, "chat"):
        tokenizer.chat_template = text


def begin_of_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """The begin-of-text token if the tokenizer puts it in front of every text, else an empty string."""
    given = tokenizer("a", return_special_tokens_mask=True, verbose=False)
    ids, added = cast(list[int], given["input_ids"]), cast(list[int], given["special_tokens_mask"])
    first = ids[: [*added, 0].index(0)]
    return str(tokenizer.bos_token) if first and first == [tokenizer.bos_token_id] else ""


def rendered_raw(
    tokenizer: PreTrainedTokenizerBase, template: Template, messages: Messages, *, answer_begins: bool, **more: Any
) -> str:
    """The messages as plain transformers renders them.

    answer_begins: end with what the template writes before the assistant's answer. more: variables of the template.
    Raises ConfigError if the template is not valid Jinja.
    """
    try:
        text = tokenizer.apply_chat_template(
            messages,
            chat_template=None if template == "chat" else template,
            add_generation_prompt=answer_begins,
            tokenize=False,
            **more,
        )
    except TemplateSyntaxError as error:
        raise ConfigError(
            "the chat template is not valid Jinja",
            expected="a template that Jinja can read",
            got=str(error),
            where=f"line {error.lineno} of the template",
            next_step="fix it, or set another template in heedful.toml",
        ) from error
    return cast(str, text)


def rendered(tokenizer: PreTrainedTokenizerBase, template: Template, messages: Messages, *, answer_begins: bool = False) -> str:
    """The messages as text. answer_begins: up to where the assistant's answer begins.

    If the tokenizer begins every text with its begin-of-text token, this text does too.
    Raises one of ``REFUSALS`` if the template cannot hold the messages, ConfigError if it is not valid Jinja.
    """
    text = rendered_raw(tokenizer, template, messages, answer_begins=answer_begins)
    begin = begin_of_text(tokenizer)
    return text if text.startswith(begin) else begin + text


def rendered_prompts(
    tokenizer: PreTrainedTokenizerBase, template: Template, prompts: Sequence[Prompt]
) -> list[tuple[Messages, str]]:
    """Each prompt as messages, and as text up to where the answer begins. Special tokens spelt in a turn are marked.

    Raises ConfigError if there is no usable template, and DataError if the template cannot hold a prompt.
    """
    _refuse_unusable(tokenizer, template)
    whole: set[tuple[str, ...]] = set()  # sequences of roles in which the template keeps every turn
    special = special_tokens(tokenizer)
    pairs: list[tuple[Messages, str]] = []
    for prompt in prompts:
        roles = tuple(turn.role for turn in prompt.turns)
        try:
            if roles not in whole:
                _refuse_left_out(tokenizer, template, prompt)
                whole.add(roles)
            messages = [{**message, "content": marked(message["content"], special)} for message in messages_of(prompt.turns)]
            pairs.append((messages, rendered(tokenizer, template, messages, answer_begins=True)))
        except REFUSALS as error:
            raise DataError(
                f"the chat template cannot hold the prompt {prompt.id!r}",
                expected="roles in the order that the chat template allows",
                got=f"{', '.join(roles)} ({error})",
                next_step='change its turns, or set template = "plain" in heedful.toml',
            ) from error
    return pairs


def _refuse_unusable(tokenizer: PreTrainedTokenizerBase, template: Template) -> None:
    if jinja_of(tokenizer, template) is None:
        raise ConfigError(
            'the template "chat" needs a tokenizer with a chat template',
            expected="chat_template in the model's folder",
            got="none",
            next_step='use a chat model, or set template in heedful.toml to "plain" or to a Jinja file',
        )
    if template != "chat" and "{" not in template:
        raise ConfigError(
            "this is not a template",
            expected="plain, chat, or the text of a Jinja template, with {{ }} or {% %}",
            got=repr(template[:80]),
        )


def _refuse_left_out(tokenizer: PreTrainedTokenizerBase, template: Template, prompt: Prompt) -> None:
    """Raise DataError if the template drops a turn: some silently skip roles that they do not know."""
    marks = [f"turn{number}z" for number in range(len(prompt.turns))]
    messages = [{"role": turn.role, "content": mark} for turn, mark in zip(prompt.turns, marks, strict=True)]
    text = rendered(tokenizer, template, messages, answer_begins=True)
    if lost := [turn.role for turn, mark in zip(prompt.turns, marks, strict=True) if mark not in text]:
        raise DataError(
            f"the chat template leaves out a turn of the prompt {prompt.id!r}",
            expected="a template that writes every turn",
            got=f"no {lost[0]} turn in its text",
            next_step="remove such turns, or set template in heedful.toml to a Jinja file that writes them",
        )


def answer_frame(tokenizer: PreTrainedTokenizerBase, template: Template) -> Frame | None:
    """What the chat template writes around an answer; None without a template, or if it refuses a question and its answer.

    ``before`` is empty if the text up to where a model answers is not the beginning of the whole conversation's text.
    """
    if jinja_of(tokenizer, template) is None:
        return None
    asked = [{"role": "user", "content": "?"}]
    try:
        prompt = rendered(tokenizer, template, asked, answer_begins=True)
        whole = rendered(tokenizer, template, [*asked, {"role": "assistant", "content": _SAID}])
    except REFUSALS:
        return None
    start, _, after = whole.rpartition(_SAID)
    before = start[len(prompt) :] if start.startswith(prompt) else ""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    # The first one; if several begin at the same place, the longest of them.
    places = {after.find(token): token for token in sorted(added, key=len) if token in after}
    return Frame(before, after, places[min(places)] if places else None)


def without_frame(text: str, frame: Frame | None) -> str:
    """The answer without what the template writes before and after it; a model's own output contains that too."""
    if frame is None:
        return text
    text = text.removeprefix(frame.before)
    return text.removesuffix(frame.before_end) if frame.before_end else text


def answer_text(
    tokenizer: PreTrainedTokenizerBase, template: Template, messages: Messages, prompt: str, said: str, frame: Frame | None
) -> str:
    """The text from where the answer begins to the token that ends it, as the template writes the whole conversation.

    messages, prompt: the turns before the answer, and their text. The answer is returned as it was said if it begins like what
    the template would write before it (a model's own reasoning, where the template writes an empty block), or if the template
    would change more than the white space around it.
    """
    said = without_frame(said, frame)
    if frame is None or not said.strip():
        return said
    begins_like_frame = frame.before.strip() and said.lstrip().startswith(frame.before.split()[0])
    if begins_like_frame:
        return said
    try:
        whole = rendered(tokenizer, template, [*messages, {"role": "assistant", "content": said}])
    except REFUSALS:
        return said
    if len(whole) < len(prompt) + len(frame.after) or not (whole.startswith(prompt) and whole.endswith(frame.after)):
        return said
    answer = whole[len(prompt) : len(whole) - len(frame.after)]
    changed = answer.removeprefix(frame.before).strip() != said.strip()
    return said if changed else answer + frame.before_end
