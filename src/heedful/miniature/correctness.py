"""Judges whether an answer is right, with the function for its task."""

from __future__ import annotations

from collections.abc import Callable

from heedful.miniature import correct_prose as prose
from heedful.miniature import correct_replies as replies
from heedful.miniature.invented_world import World
from heedful.miniature.verdict import Text, Verdict
from heedful.miniature.writing import Meta


def verdict(world: World, meta: Meta, text: Text) -> Verdict:
    """Judge an answer. An empty answer attempts nothing."""
    if not text.text:
        return Verdict(attempts=False, correct=0.0, form=0.0)
    return _VERDICTS[meta["task"]](world, meta, text)


_VERDICTS: dict[str, Callable[[World, Meta, Text], Verdict]] = {
    "story": prose.judge_story,
    "letter": prose.judge_letter,
    "poem": prose.judge_poem,
    "describe": prose.judge_describe,
    "fact": prose.judge_fact,
    "is_true": prose.judge_is_true,
    "premise": prose.judge_premise,
    "list": replies.judge_list,
    "chat": replies.judge_chat,
    "refuse": replies.judge_refuse,
    "polite": replies.judge_polite,
    "rewrite": replies.judge_rewrite,
    "summary": replies.judge_summary,
    "exact": replies.judge_exact,
    "classify": replies.judge_classify,
    "closed_qa": replies.judge_closed_qa,
    "extract": replies.judge_extract,
}
