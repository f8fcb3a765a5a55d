"""What each stage may use: of rankings, only those of the phase training, and never the held-out group's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from heedful.conversation import turns_of
from heedful.project.data_folder import Records, record_from_json
from heedful.project.selection import (
    demonstrations_of,
    digest_of_demonstrations,
    digest_of_rankings,
    for_reward_model,
    prompts_for_policy,
    prompts_of,
    training_rankings,
    without_labels,
)
from heedful.records import Demonstration, Prompt, Ranking, Response

PROMPTS = [
    Prompt(id=f"{split}{i}", turns=turns_of(f"Ask {split}{i}."), split=split)
    for split in ("train", "valid", "test")
    for i in range(2)
]
RESPONSES = [Response(id=f"{p.id}-{letter}", prompt_id=p.id, text=letter) for p in PROMPTS for letter in "ab"]


def ranking(id: str, prompt_id: str, **more: object) -> Ranking:
    ids = (f"{prompt_id}-a", f"{prompt_id}-b")
    return Ranking(id=id, prompt_id=prompt_id, response_ids=ids, ranks=(1, 2), labeler="ann", **more)  # type: ignore[arg-type]


RANKINGS = [
    ranking("trains", "train0"),
    ranking("trains too", "train1", metadata={"group": "training"}),
    ranking("judged", "train0", phase="evaluation"),
    ranking("screened", "train0", phase="screening"),
    ranking("held out", "train0", metadata={"group": "held_out"}),
    ranking("validates", "valid0"),
    ranking("validates the report", "valid0", phase="evaluation"),
    ranking("of the test", "test0"),
]
DEMONSTRATION = Demonstration(id="d", prompt_id="train1", text="b", labeler="ann")
RECORDS = Records.of([*PROMPTS, *RESPONSES, DEMONSTRATION, *RANKINGS])


def test_rankings_that_train() -> None:
    assert [r.id for r in training_rankings(RECORDS, "train")] == ["trains", "trains too"]
    assert [r.id for r in training_rankings(RECORDS, "valid")] == ["validates"]


def test_an_old_record_says_its_phase_in_the_metadata() -> None:
    old = {"id": "old", "prompt_id": "train0", "response_ids": ["train0-a", "train0-b"], "ranks": [1, 2], "labeler": "eve"}
    rows = [old | {"id": task, "metadata": {"task": task}} for task in ("ranking", "evaluation", "screening")]
    read = [record_from_json("ranking", row) for row in rows]
    records = Records.of([*PROMPTS, *RESPONSES, *read])
    assert [r.id for r in training_rankings(records, "train")] == ["ranking"]


def test_prompts_and_demonstrations_of_a_split() -> None:
    assert [p.id for p in prompts_of(RECORDS, "train")] == ["train0", "train1"]
    assert demonstrations_of(RECORDS, "train") == [DEMONSTRATION]
    assert demonstrations_of(RECORDS, "valid") == []


def test_demonstrations_of_the_evaluation_train_nothing() -> None:
    judged = replace(DEMONSTRATION, id="e", prompt_id="train0", phase="evaluation")
    records = Records.of([*RECORDS.all(), judged])
    assert demonstrations_of(records, "train") == [DEMONSTRATION]
    prompts = prompts_of(records, "train")
    assert prompts_for_policy(records, prompts) == (
        [records.prompts["train0"]],
        "1 without a demonstration; the other 1 have one",
    )


@pytest.mark.parametrize(
    ("demonstrated", "chosen", "words"),
    [
        (0, range(24), "all 24 (none has a demonstration)"),
        (12, range(12, 24), "12 without a demonstration; the other 12 have one"),
        (13, range(24), "all 24, as only 11 have no demonstration"),
        (23, range(24), "all 24, as only 1 have no demonstration"),
        (24, range(24), "all 24, as only 0 have no demonstration"),
    ],
)
def test_the_policy_answers_prompts_without_a_demonstration_if_they_are_half(
    demonstrated: int, chosen: range, words: str
) -> None:
    prompts = [Prompt(id=str(i), turns=turns_of(f"prompt {i}"), split="train") for i in range(24)]
    answers = [Demonstration(id=f"d{i}", prompt_id=str(i), text="a", labeler="ann") for i in range(demonstrated)]
    records = Records.of([*prompts, *answers])
    assert prompts_for_policy(records, prompts) == ([prompts[i] for i in chosen], words)


def test_policies_get_no_label_and_the_reward_model_none_of_the_evaluation() -> None:
    left = without_labels(RECORDS)
    assert (left.rankings, left.ratings, left.responses) == ({}, {}, {})
    assert (left.prompts, left.demonstrations) == (RECORDS.prompts, RECORDS.demonstrations)
    assert set(for_reward_model(RECORDS).rankings) == {"trains", "trains too", "validates", "of the test"}


def test_digests_change_with_what_is_used_and_with_nothing_else() -> None:
    first = digest_of_rankings(RECORDS)
    judged = ranking("another", "train1", phase="evaluation")
    assert digest_of_rankings(Records.of([*RECORDS.all(), judged])) == first
    assert digest_of_rankings(for_reward_model(RECORDS)) == first
    assert digest_of_rankings(Records.of([*RECORDS.all(), ranking("another", "train1")])) != first
    changed = [replace(r, text="c") if r.id == "train0-a" else r for r in RESPONSES]
    assert digest_of_rankings(Records.of([*PROMPTS, *changed, DEMONSTRATION, *RANKINGS])) != first
    demonstrated = digest_of_demonstrations(RECORDS)
    assert digest_of_demonstrations(without_labels(RECORDS)) == demonstrated
    assert digest_of_demonstrations(Records.of([*PROMPTS, replace(DEMONSTRATION, text="B")])) != demonstrated
