"""Public data sets as they are distributed. Each reader's docstring says what the columns mean.

Where a set has ratings and no ranks, the highest rating is rank 1 and equal ratings are a tie.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from heedful.conversation import Turn, prompt_turns, response_text, split_turns
from heedful.project.formats.ranked_rows import Given, number_of, ranked
from heedful.project.formats.row_keys import unused_keys
from heedful.project.formats.rows import (
    BadRow,
    Draft,
    an_object,
    content_id,
    new_prompt,
    new_response,
    optional_text,
    text_of,
    turns_of_messages,
)
from heedful.project.structure import shown
from heedful.records import Rating

ULTRAFEEDBACK_SAMPLE = '{"instruction": "…", "completions": [{"model": "…", "response": "…", "overall_score": 7.5}]}'
NECTAR_SAMPLE = '{"prompt": "\\n\\nHuman: …\\n\\nAssistant: ", "answers": [{"answer": "…", "model": "…", "rank": 1}]}'
HELPSTEER_SAMPLE = '{"prompt": "…", "response": "…", "helpfulness": 3}, one row for each response'
SHP_SAMPLE = '{"history": "…", "human_ref_A": "…", "human_ref_B": "…", "labels": 1}'
PKU_SAMPLE = '{"prompt": "…", "response_0": "…", "response_1": "…", "better_response_id": 0}'
SUMMARIES_SAMPLE = '{"info": {"post": "…", "title": "…"}, "summaries": [{"text": "…", "policy": "…"}], "choice": 0}'

_TAG = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def _draft(turns: Sequence[Turn], given: Sequence[Given], labeler: str, row: Mapping[str, Any], used: Sequence[str]) -> Draft:
    """The records of a prompt with these turns and its ranked responses, with notes on the keys that were not used."""
    prompt = new_prompt(turns)
    answers = [answer._replace(text=response_text(prompt.turns, answer.text)) for answer in given]
    draft = ranked(prompt, answers, labeler)
    draft.notes += unused_keys(row, used)
    return draft


def _asked(text: str) -> tuple[Turn, ...]:
    return prompt_turns([("user", text)])


def _zero_or_one(row: Mapping[str, Any], key: str) -> float:
    """0 or 1, also as text from a table. Raises BadRow."""
    number = number_of(row.get(key), key)
    if number not in (0, 1):
        raise BadRow(f"{key!r} should be 0 or 1 and is {shown(row.get(key))}")
    return number


def read_ultrafeedback(row: object, labeler: str | None) -> Draft:
    """OpenBMB's UltraFeedback: an ``instruction`` and four ``completions``, each by a ``model``, with scores by GPT-4.

    ``overall_score`` (1 to 10) ranks them. The single aspects in ``annotations`` are not used, nor is ``custom_system_prompt``:
    the models saw it, the judge did not. Raises BadRow.
    """
    row = an_object(row)
    completions = row.get("completions")
    if not isinstance(completions, list):
        raise BadRow(f"'completions' should be a list and is {shown(completions)}")
    given = [
        Given(text_of(each, "response"), optional_text(each, "model"), None, number_of(each.get("overall_score"), "score"))
        for each in map(an_object, completions)
    ]
    used = ("instruction", "completions", "models", "correct_answers", "incorrect_answers")
    return _draft(_asked(text_of(row, "instruction")), given, labeler or "gpt-4", row, used)


def read_nectar(row: object, labeler: str | None) -> Draft:
    """Berkeley's Nectar: a ``prompt`` in the form of HH, and seven ``answers``, each by a ``model``, ranked by GPT-4.

    ``rank`` is 1 for the best. ``turns``, ``num_responses``, ``source`` and ``good_natured`` describe the row. Raises BadRow.
    """
    row = an_object(row)
    head, turns = split_turns(text_of(row, "prompt").strip())
    if head or len(turns) < 2 or turns[-1] != ("assistant", ""):
        raise BadRow("'prompt' does not begin with 'Human:' and end with 'Assistant:'")
    answers = row.get("answers")
    if not isinstance(answers, list):
        raise BadRow(f"'answers' should be a list and is {shown(answers)}")
    given = [
        Given(text_of(each, "answer"), optional_text(each, "model"), number_of(each.get("rank"), "rank"))
        for each in map(an_object, answers)
    ]
    used = ("prompt", "answers", "turns", "num_responses", "good_natured")
    return _draft(prompt_turns(turns[:-1]), given, labeler or "gpt-4", row, used)


# ---------------------------------------------------------------------------------------------------- HelpSteer


def helpsteer_group(row: Any) -> str | None:
    """Rated rows of one prompt belong together; pairs stand alone."""
    return row["prompt"] if {"prompt", "response", "helpfulness"} <= row.keys() and isinstance(row["prompt"], str) else None


def read_helpsteer(row: object, labeler: str | None) -> Draft:
    """NVIDIA's HelpSteer, in all three versions.

    - Rated rows (HelpSteer and HelpSteer2): ``prompt``, ``response``, and 0 to 4 for ``helpfulness``, ``correctness``,
      ``coherence``, ``complexity`` and ``verbosity``. The rows of a prompt become one ranking by helpfulness.
    - HelpSteer2's preferences: ``prompt``, ``response_1``, ``response_2`` and ``preference_strength``, from -3 (the first is
      much better) to 3 (the second is); 0 is a tie.
    - HelpSteer3's preferences: ``context`` (messages), ``response1``, ``response2`` and ``overall_preference``, likewise.

    Raises BadRow.
    """
    labeler = labeler or "helpsteer"
    if isinstance(row, list) and row:
        rows = [an_object(each) for each in row]
        given = [Given(text_of(each, "response"), None, None, number_of(each["helpfulness"], "rating")) for each in rows]
        used = ("prompt", "response", "helpfulness", "correctness", "coherence", "complexity", "verbosity")
        draft = _draft(_tagged_turns(text_of(rows[0], "prompt")), given, labeler, rows[0], used)
        draft.notes += [note for each in rows[1:] for note in unused_keys(each, used)]
        return draft
    row = an_object(row)
    if "context" in row:
        turns, keys = (
            prompt_turns(turns_of_messages(row["context"])),
            ("context", "response1", "response2", "overall_preference"),
        )
    else:
        turns = _tagged_turns(text_of(row, "prompt"))
        keys = ("prompt", "response_1", "response_2", "preference_strength")
    strength = number_of(row.get(keys[3]), "preference")
    if strength is None:
        raise BadRow(f"no key {keys[3]!r}")
    given = [Given(text_of(row, keys[1]), None, 1 + (strength > 0)), Given(text_of(row, keys[2]), None, 1 + (strength < 0))]
    reasons = ("preference_statement", "preference_elaboration", "individual_preference")
    return _draft(
        turns, given, labeler, row, (*keys, *reasons, "three_most_similar_preferences", "all_preferences_unprocessed")
    )


def _tagged_turns(text: str) -> tuple[Turn, ...]:
    """The turns of a prompt that marks all but the first with ``<extra_id_1>User`` or ``<extra_id_1>Assistant``."""
    first, *others = _TAG.split(text)
    turns = [Turn("user", first)] if first.strip() else []
    turns += [
        Turn("user" if name == "User" else "assistant", said) for name, said in zip(others[::2], others[1::2], strict=True)
    ]
    return prompt_turns(turns[:-1] if turns[-1:] == [Turn("assistant", "")] else turns)


# ---------------------------------------------------------------------------------------------------- pairs


def read_shp(row: object, labeler: str | None) -> Draft:
    """Stanford's SHP: a Reddit post (``history``) and two comments, ``human_ref_A`` and ``human_ref_B``.

    ``labels`` is 1 if A had more votes, 0 if B had. ``score_A``, ``score_B``, ``score_ratio``, ``seconds_difference`` and
    ``upvote_ratio`` say how clear that is and are not used. Raises BadRow.
    """
    row = an_object(row)
    first = _zero_or_one(row, "labels") == 1
    given = [Given(text_of(row, "human_ref_A"), "human", 2 - first), Given(text_of(row, "human_ref_B"), "human", 1 + first)]
    known = ("score_A", "score_B", "score_ratio", "seconds_difference", "upvote_ratio", "c_root_id_A", "c_root_id_B")
    used = ("history", "human_ref_A", "human_ref_B", "labels", "created_at_utc_A", "created_at_utc_B", *known)
    return _draft(_asked(text_of(row, "history")), given, labeler or "shp", row, used)


def read_pku(row: object, labeler: str | None) -> Draft:
    """PKU-SafeRLHF: a ``prompt``, ``response_0`` and ``response_1``; ``better_response_id`` names the more helpful one.

    ``safer_response_id``, ``is_response_0_safe`` and the harm categories are about safety and are not used: the paper's labels
    for training put helpfulness first (SPEC 2.2). Raises BadRow.
    """
    row = an_object(row)
    better = _zero_or_one(row, "better_response_id")
    given = [
        Given(text_of(row, f"response_{n}"), optional_text(row, f"response_{n}_source"), 1 + (n != better)) for n in (0, 1)
    ]
    each = [key.format(n) for n in (0, 1) for key in ("response_{}", "is_response_{}_safe", "response_{}_harm_category")]
    each += [f"response_{n}_severity_level" for n in (0, 1)]
    used = ("prompt", "better_response_id", "safer_response_id", *each)
    return _draft(_asked(text_of(row, "prompt")), given, labeler or "pku-saferlhf", row, used)


def read_summaries(row: object, labeler: str | None) -> Draft:
    """OpenAI's summarize-from-feedback: comparisons, and ratings of single summaries ("axis").

    ``info`` holds a Reddit post (``subreddit``, ``title``, ``post``) or a news ``article``; the prompt is written as for the
    paper's models. ``summaries`` are two texts by a ``policy``, and ``choice`` is the place of the better one. In the axis
    files ``summary.axes.overall`` (1 to 7) becomes a rating. ``worker`` is the labeler. Raises BadRow.
    """
    row = an_object(row)
    turns = (Turn("user", _summary_prompt(an_object(row.get("info")))),)  # as it is: the summary follows in the same line
    who = optional_text(row, "worker") or labeler or "summarize-from-feedback"
    used = ("info", "summaries", "summary", "choice", "worker", "extra")
    if "summary" in row:
        draft = _rated_summary(turns, an_object(row["summary"]), who)
        draft.notes += unused_keys(row, used)
        return draft
    summaries, choice = row.get("summaries"), _zero_or_one(row, "choice")
    if not isinstance(summaries, list) or len(summaries) != 2:
        raise BadRow(f"'summaries' should be a list of two and is {shown(summaries)}")
    given = [
        Given(text_of(each, "text"), optional_text(each, "policy"), 1 + (place != choice))
        for place, each in enumerate(map(an_object, summaries))
    ]
    return _draft(turns, given, who, row, used)


def _rated_summary(turns: Sequence[Turn], summary: Mapping[str, Any], labeler: str) -> Draft:
    prompt = new_prompt(turns)
    response = new_response(prompt, response_text(prompt.turns, text_of(summary, "text")), optional_text(summary, "policy"))
    draft = Draft([prompt, response])
    overall = number_of(an_object(summary.get("axes")).get("overall"), "rating")
    if overall is not None and not overall.is_integer():
        raise BadRow(f"a rating should be a whole number and is {shown(overall)}")
    if overall is None:
        draft.notes.append("summaries without an overall rating: responses alone")
    else:
        id = content_id("rating", response.id, labeler, int(overall))
        draft.records.append(Rating(id=id, prompt_id=prompt.id, response_id=response.id, labeler=labeler, overall=int(overall)))
    return draft


def _summary_prompt(info: Mapping[str, Any]) -> str:
    if optional_text(info, "article"):
        return f"{text_of(info, 'article').strip()}\n\nTL;DR:"
    parts = {"SUBREDDIT: r/": "subreddit", "TITLE: ": "title", "POST: ": "post"}
    text_of(info, "post")
    return "\n\n".join([*(name + text.strip() for name, key in parts.items() if (text := optional_text(info, key))), "TL;DR:"])
