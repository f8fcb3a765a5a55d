from __future__ import annotations

import pytest
from tests.labeling.labels_by_hand import DAY, NO_FLAGS, NOW, Labels, form

from heedful.labeling.database.connection import Database
from heedful.labeling.quality import carefulness, labeler_agreement
from heedful.labeling.quality.carefulness import GoldAnswer, gold_report, submission_of
from heedful.labeling.quality.labeler_agreement import RESEARCHERS, Scope


def test_agreement_of_stored_answers_by_hand(database: Database) -> None:
    with database.write() as connection:
        make = Labels(connection)
        ann, bea = make.person("ann"), make.person("bea")
        hal = make.person("hal", group="held_out")
        rex = make.person("rex", role="researcher")
        carl = make.person("carl", group="candidate")
        batch_id = make.batch()
        other = make.batch()
        screening = make.batch(phase="screening")
        first = make.task(batch_id, make.prompt("p"), num_outputs=3)
        make.rank(first, ann, "0", "1", "2")
        make.rank(first, bea, "1", "0", "2")
        make.rank(first, hal, "0", "12")
        make.rank(first, rex, "0", "1", "2")
        second = make.task(other, make.prompt("q"), num_outputs=2)
        make.rank(second, ann, "0", "1", at=NOW - 5 * DAY)
        make.rank(second, bea, "1", "0", at=NOW - 5 * DAY)
        # Of screening, or a candidate's: in nothing here.
        make.rank(first, carl, "2", "1", "0")
        third = make.task(screening, make.prompt("r"), num_outputs=2)
        make.rank(third, ann, "0", "1")
        make.rank(third, bea, "0", "1")
    with database.read() as connection:
        report = labeler_agreement.agreement(connection)
        of_batch = labeler_agreement.agreement(connection, Scope(batch_id=batch_id))
        recent = labeler_agreement.agreement(connection, Scope(since=NOW - DAY))
        newest = labeler_agreement.agreement(connection, max_rankings=4)
    # p: ann-bea agree on 2 of 3 (01 not), ann-hal on 2 of 2 (hal ties 1 and 2), bea-hal on 1 of 2; q: ann-bea on 0 of 1.
    assert (report.comparisons.value, report.comparisons.count) == (5 / 8, 8)
    assert (report.prompts, report.rankings) == (2, 6)
    assert report.groups == {"ann": "training", "bea": "training", "hal": "held_out", "rex": RESEARCHERS}
    assert report.by_group["training", "training"].value == 2 / 4
    assert report.by_group["held_out", "training"].value == 3 / 4
    # rex says what ann says of p: ann agrees on 3 of 3, bea on 2 of 3, hal on 2 of 2
    assert {name: share.value for name, share in report.with_researchers.items()} == {
        "ann": 1.0,
        "bea": pytest.approx(2 / 3),
        "hal": 1.0,
    }
    # ann: 2 + 2 + 0 of 3 + 2 + 1; rex is no labeler
    assert report.with_others["ann"].value == pytest.approx(4 / 6)
    assert set(report.with_others) == {"ann", "bea", "hal"}
    assert of_batch.comparisons.count == recent.comparisons.count == 7
    assert newest.newest_only
    assert newest.rankings == 4
    assert not report.newest_only


def test_flags_and_ratings_of_stored_answers(database: Database) -> None:
    with database.write() as connection:
        make = Labels(connection)
        ann, bea = make.person("ann"), make.person("bea", simulated=True)
        task_id = make.task(make.batch(kind="rate"), make.prompt("p"), num_outputs=2)
        make.answer(task_id, ann, {"ratings": {"p.0": form(7, hallucination=True), "p.1": form(1)}})
        make.answer(task_id, bea, {"ratings": {"p.0": form(7, hallucination=True), "p.1": form(1, hallucination=True)}})
    with database.read() as connection:
        report = labeler_agreement.agreement(connection)
        people_only = labeler_agreement.agreement(connection, Scope(simulated=False))
    assert (report.ratings, people_only.ratings) == (4, 2)
    assert report.rating_alpha.value == 1
    assert report.flags["hallucination"].yes.value == 3 / 4
    assert report.flags["hallucination"].agreement.value == 1 / 2
    assert report.flags["fails_task"].agreement.value == 1


def test_gold_by_hand(database: Database) -> None:
    known = {"groups": [["p.0"], ["p.1", "p.2"]], "ratings": {"p.0": {"overall": 6, "flags": {"fails_task": False}}}}
    with database.write() as connection:
        make = Labels(connection)
        ann, rex = make.person("ann"), make.person("rex", role="researcher")
        task_id = make.task(make.batch(), make.prompt("p"), num_outputs=3, gold=known)
        ratings = {"p.0": form(5, fails_task=True), "p.1": form(4), "p.2": form(4)}
        make.answer(task_id, ann, {"groups": [["p.1"], ["p.0"], ["p.2"]], "ratings": ratings})
        make.answer(task_id, rex, {"groups": [["p.2"], ["p.0"], ["p.1"]], "ratings": ratings})
        of_screening = make.task(make.batch(phase="screening"), "p", num_outputs=3, gold=known)
        make.answer(of_screening, ann, {"groups": [["p.0"], ["p.1"], ["p.2"]], "ratings": ratings})
    with database.read() as connection:
        report = carefulness.gold(connection)
        assert carefulness.gold(connection, Scope(batch_id=2)).tasks == 0
    assert (report.tasks, report.answers, report.labelers) == (1, 1, ["ann"])
    # Known: 0 before 1 and 0 before 2; right: the second. 5 lies within 5 to 7; the flag is wrong.
    assert report.rankings["ann"].value == 1 / 2
    assert report.overall["ann"].value == 1
    assert report.flags["ann"].value == 0


def test_gold_of_other_kinds_counts_its_known_fields() -> None:
    gold = {"use_case": "chat", "flags": {"sensitive": True, "ambiguous": False}}
    given = {"use_case": "chat", "flags": {"sensitive": True, "ambiguous": True, "intent_unclear": True}}
    report = gold_report(
        [
            GoldAnswer(task_id=1, kind="review_prompt", gold=gold, answer=given, labeler="ann"),
            GoldAnswer(
                task_id=2,
                kind="review_personal_data",
                gold={"personal_data": True, "note": "an address"},
                answer={"personal_data": True, "note": ""},
                labeler="bea",
            ),
        ]
    )
    assert report.other["ann"].value == pytest.approx(2 / 3)
    assert report.other["bea"].value == 1
    assert report.rankings == {}


def test_gold_of_a_former_field_is_not_asked_of_newer_answers() -> None:
    """Table 7's opinion, advice and moral judgment were one mark; gold from then may hold it."""
    gold = {"use_case": "chat", "flags": {"requests_opinion": True, "ambiguous": False}}
    newer = {"use_case": "chat", "flags": {"requests_advice": True, "ambiguous": False}}
    older = {"use_case": "chat", "flags": {"requests_opinion": False, "ambiguous": False}}
    report = gold_report(
        [
            GoldAnswer(task_id=1, kind="review_prompt", gold=gold, answer=newer, labeler="ann"),
            GoldAnswer(task_id=1, kind="review_prompt", gold=gold, answer=older, labeler="bea"),
            GoldAnswer(
                task_id=2, kind="review_prompt", gold={"flags": {"requests_opinion": True}}, answer=newer, labeler="cem"
            ),
        ]
    )
    assert report.other["ann"].value == 1
    assert report.other["bea"].value == pytest.approx(2 / 3)
    assert "cem" not in report.other


def test_gold_that_most_miss_is_named() -> None:
    gold = {"groups": [["a"], ["b"]]}
    wrong, right = {"groups": [["b"], ["a"]]}, {"groups": [["a"], ["b"]]}

    def given(task_id: int, *answers: dict[str, list[list[str]]]) -> list[GoldAnswer]:
        return [
            GoldAnswer(task_id=task_id, kind="rank", gold=gold, answer=answer, labeler=f"labeler {number}")
            for number, answer in enumerate(answers)
        ]

    report = gold_report([*given(1, wrong, wrong, right), *given(2, wrong, right, right), *given(3, wrong, wrong)])
    assert [(missed.task_id, missed.wrong, missed.labelers) for missed in report.missed] == [(1, 2, 3)]


def test_a_submission_looks_at_places_and_not_at_ids() -> None:
    same, other = form(4), form(5)

    def submission(groups: list[list[str]], shown: list[str], ratings: dict[str, object]):
        answer = {"groups": groups, "ratings": ratings}
        return submission_of(id="1", labeler="ann", kind="rank", seconds=3.0, characters=9, answer=answer, shown_order=shown)

    first = submission([["x"], ["y"]], ["x", "y"], {"x": same, "y": same})
    assert (first.first_shown_best, first.identical_forms, first.num_outputs) == (True, True, 2)
    # Other outputs, the same clicks.
    assert submission([["b"], ["a"]], ["b", "a"], {"a": same, "b": same}).answer == first.answer
    turned = submission([["y"], ["x"]], ["x", "y"], {"x": same, "y": other})
    assert (turned.first_shown_best, turned.identical_forms) == (False, False)
    assert turned.answer != first.answer
    assert submission([["x", "y"]], ["x", "y"], {"x": same, "y": same}).first_shown_best is None


def test_careless_answers_are_found_in_what_is_stored(database: Database) -> None:
    with database.write() as connection:
        make = Labels(connection)
        ann, hasty = make.person("ann"), make.person("hasty")
        carl = make.person("carl", group="candidate")
        batch_id = make.batch()
        for number in range(24):
            task_id = make.task(batch_id, make.prompt(f"p{number}", "x" * 11), num_outputs=4)
            ids = [f"p{number}.{place}" for place in range(4)]
            shown = ids[number % 4 :] + ids[: number % 4]
            best = number % 3
            make.rank(task_id, ann, str(best), "".join({"0", "1", "2", "3"} - {str(best)}), shown=shown, seconds_spent=60.0)
            first = shown[0][-1]
            make.rank(task_id, hasty, first, "".join({"0", "1", "2", "3"} - {first}), shown=shown, seconds_spent=4.0)
            make.rank(task_id, carl, "0123", shown=shown, seconds_spent=1.0)
        demonstrate = make.task(make.batch(kind="demonstrate"), "p0")
        make.answer(demonstrate, ann, {"text": "Ben Nevis"}, seconds_spent=None)
    with database.read() as connection:
        rows = {row.labeler: row for row in carefulness.careless(connection)}
        submissions = carefulness.submissions(connection, each=5)
    assert set(rows) == {"ann", "hasty"}
    assert rows["ann"].signs == ()
    assert {"fast", "first shown"} <= set(rows["hasty"].signs)
    # Prompt and four outputs of 8 characters each.
    assert {submission.characters for submission in submissions} == {11 + 4 * len("Output 0")}
    assert len(submissions) == 10
    assert NO_FLAGS["hallucination"] is False
