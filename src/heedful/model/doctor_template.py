"""The self-check of a chat template: do training and other tools turn the same conversation into the same text?

``heedful doctor`` prints all checks. Some look for mistakes. Others only report what a template does, to avoid surprises.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from heedful.errors import CheckError, ConfigError
from heedful.model.chat_template import (
    REFUSALS,
    Messages,
    Template,
    answer_frame,
    begin_of_text,
    jinja_of,
    rendered_raw,
)
from heedful.model.loading import load_tokenizer

_ANSWER = "An answer of some words."
_REASONED = "<think>\nBecause of this.\n</think>\n\nAn answer."
_SYSTEM = {"role": "system", "content": "Some rules."}
_ASKED = {"role": "user", "content": "A question."}
_TOOL = {"role": "tool", "content": "A result."}


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateCheck:
    """One check and its finding: None, a mistake, or (if ``mistake`` is False) something worth knowing."""

    name: str
    found: str | None = None
    mistake: bool = True

    @property
    def failed(self) -> bool:
        """Whether a mistake was found."""
        return self.found is not None and self.mistake


def examine_template(folder: str | Path, template: Template = "chat") -> list[TemplateCheck]:
    """All checks of the chat template in a model's folder, or of another template for this model.

    Returns an empty list if there is no template. Raises MissingError, ModelError (no usable tokenizer), ConfigError (the
    template is not valid Jinja).
    """
    tokenizer = load_tokenizer(folder)
    if jinja_of(tokenizer, template) is None:
        return []
    return template_checks(tokenizer, template, _listed_ends(Path(folder).expanduser()))


def template_checks(
    tokenizer: PreTrainedTokenizerBase, template: Template, listed_ends: Collection[int] | None = None
) -> list[TemplateCheck]:
    """All checks of a chat template. listed_ends: the tokens at which other tools end a response; None: unknown."""
    render = _renderer(tokenizer, template)
    return [
        TemplateCheck(name="the prompt begins the conversation", found=_not_a_beginning(render)),
        TemplateCheck(name="begin of text, once", found=_wrong_begin(tokenizer, render)),
        TemplateCheck(name="end of an answer", found=_wrong_end(tokenizer, template, listed_ends)),
        TemplateCheck(name="earlier turns stay", found=_changed_turns(tokenizer, template, render), mistake=False),
        TemplateCheck(name="words stand as written", found=_stripped(render), mistake=False),
        TemplateCheck(name="the same every day", found=_dated(render), mistake=False),
        TemplateCheck(name="system messages", found=_refused(render, [_SYSTEM, _ASKED]), mistake=False),
        TemplateCheck(
            name="tool turns",
            found=_refused(render, [_ASKED, {"role": "assistant", "content": _ANSWER}, _TOOL]),
            mistake=False,
        ),
    ]


def refuse_failed_template(checks: Collection[TemplateCheck], where: str | Path) -> None:
    """Raise CheckError with the first mistake, if any check found one."""
    for check in checks:
        if check.failed:
            raise CheckError(
                f"the chat template is wrong: {check.name}",
                expected="the same tokens in training, here and in other tools",
                got=check.found,
                where=where,
                next_step="fix a copy of the template and set it: template = FILE in heedful.toml (docs/templates.md)",
            )


def refuse_wrong_template(tokenizer: PreTrainedTokenizerBase, template: Template, where: str | Path) -> None:
    """Raise ConfigError if the text of a prompt is not the beginning of the conversation's text.

    With such a template, a model would be trained on other tokens than it gets when it answers. Training corrects the other
    mistakes itself.
    """
    if jinja_of(tokenizer, template) is None:
        return
    if (found := _not_a_beginning(_renderer(tokenizer, template))) is not None:
        raise ConfigError(
            "no model can be trained with this chat template",
            expected="the text up to where a model answers is the beginning of the whole conversation's text",
            got=found,
            where=where,
            next_step="fix a copy of the template and set it: template = FILE in heedful.toml (docs/templates.md)",
        )


# ---------------------------------------------------------------- the checks

Render = Callable[..., str]


def _renderer(tokenizer: PreTrainedTokenizerBase, template: Template) -> Render:
    def render(messages: Messages, *, answer_begins: bool = False, **more: Any) -> str:
        return rendered_raw(tokenizer, template, messages, answer_begins=answer_begins, **more)

    return render


def _conversations(render: Render) -> Iterator[tuple[Messages, str]]:
    """A few conversations, each with its text up to where the answer begins; those that the template refuses are skipped."""
    answered = [_ASKED, {"role": "assistant", "content": _ANSWER}, {"role": "user", "content": "And then?"}]
    for messages in ([_ASKED], [_SYSTEM, _ASKED], answered, [_SYSTEM, *answered]):
        try:
            yield messages, render(messages, answer_begins=True)
        except REFUSALS:
            continue


def _not_a_beginning(render: Render) -> str | None:
    some = False
    for messages, prompt in _conversations(render):
        some = True
        whole = render([*messages, {"role": "assistant", "content": _ANSWER}])
        if not whole.startswith(prompt):
            same = next(i for i, letter in enumerate(prompt) if whole[i : i + 1] != letter)
            start = max(0, same - 20)
            return f"a model answers after {prompt[start:]!r}; the conversation continues with {whole[start : same + 40]!r}"
        if _ANSWER not in whole[len(prompt) :]:
            return "the answer is not in the text of the conversation"
    return None if some else "the template cannot hold a single question"


def _wrong_begin(tokenizer: PreTrainedTokenizerBase, render: Render) -> str | None:
    begin, token = begin_of_text(tokenizer), str(tokenizer.bos_token or "")
    for _, prompt in _conversations(render):
        if begin and not prompt.startswith(begin):
            return f"lost: the tokenizer begins every text with {begin}, the template does not (training adds it)"
        if token and prompt.startswith(token * 2):
            return f"doubled: the template writes {token} twice"
    return None


def _wrong_end(tokenizer: PreTrainedTokenizerBase, template: Template, listed: Collection[int] | None) -> str | None:
    frame = answer_frame(tokenizer, template)
    if frame is None:
        return None  # another check reports why
    if frame.end is None:
        return f"lost: the template writes no special token after an answer (training ends answers with {tokenizer.eos_token})"
    if listed is not None and tokenizer.convert_tokens_to_ids(frame.end) not in listed:
        return f"lost: generation_config.json does not list {frame.end}, which ends an answer (saving a trained model adds it)"
    return None


def _changed_turns(tokenizer: PreTrainedTokenizerBase, template: Template, render: Render) -> str | None:
    frame = answer_frame(tokenizer, template)
    if frame is None:
        return None
    more = {"role": "user", "content": "And then?"}
    for said in (_REASONED, _ANSWER):
        answered = [_ASKED, {"role": "assistant", "content": said}]
        last, earlier = render(answered), render([*answered, more], answer_begins=True)
        if said == _REASONED and "Because" in last and "Because" not in earlier:
            return "the reasoning (<think>) of earlier answers is dropped; training reads prompts as the template writes them"
        if not earlier.startswith(last.removesuffix(frame.after) + frame.before_end + (frame.end or "")):
            return "earlier answers are written differently from the last; training reads prompts as the template writes them"
    return None


def _stripped(render: Render) -> str | None:
    odd = "\n  Some words. \n"
    lost: list[str] = []
    for role, messages in (
        ("a question", [{"role": "user", "content": odd}]),
        ("an answer", [_ASKED, {"role": "assistant", "content": odd}]),
    ):
        try:
            if odd not in render(messages):
                lost.append(role)
        except REFUSALS:
            continue
    return f"white space around {' and '.join(lost)} is dropped" if lost else None


def _dated(render: Render) -> str | None:
    """A finding if the template writes today's date: then replacing its date function changes the text, or fails."""
    asked = next(((messages, prompt) for messages, prompt in _conversations(render)), None)
    if asked is None:
        return None
    messages, prompt = asked
    try:
        same = render(messages, answer_begins=True, strftime_now=lambda form: "another day") == prompt
    except REFUSALS:
        same = False
    return None if same else "today's date is in the text: prompts change from day to day; a copy of the template could fix it"


def _refused(render: Render, messages: Messages) -> str | None:
    try:
        text = render(messages, answer_begins=True)
    except REFUSALS as error:
        return f"refused by the template: {error}"
    lost = [message["role"] for message in messages if message["content"] not in text]
    return f"left out of the text: {', '.join(lost)}; prompts with such turns are refused" if lost else None


def _listed_ends(folder: Path) -> set[int]:
    """The tokens at which plain transformers ends a response, from the folder's configuration files."""
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        found = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
        if found is not None:
            return set(cast(list[int], found) if isinstance(found, list) else [found])
    return set()
