"""Forms to answers and back, whatever is in them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.labeling.labeling import answer_for

from heedful.conversation import Turn
from heedful.errors import DataError
from heedful.labeling.queue.assignments import AssignmentView, Output, ShownPrompt
from heedful.labeling.queue.kinds import KINDS, PROMPT_FLAGS, TaskKind, check_answer
from heedful.records import RATING_FLAGS, USE_CASE_SHARES
from heedful.web.label import forms

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r"), max_size=20)
PAYLOADS: dict[str, dict[str, Any]] = {"self_assess": {"topics": ["age", "religion", "politics"]}}


def view_of(kind: TaskKind, num_outputs: int = 4, payload: dict[str, Any] | None = None) -> AssignmentView:
    has_outputs = kind in ("rank", "rate", "toxicity")
    return AssignmentView(
        id=1,
        task_id=1,
        kind=kind,
        phase="training",
        batch_id=1,
        batch_name="batch",
        token="token",
        state="leased",
        leased=0.0,
        expires=1.0,
        prompt=ShownPrompt(id="p", turns=(Turn("user", "prompt"),), text="prompt", use_case=None, language=None),
        outputs=tuple(Output(id=f"r{n}", text=f"Output {n}.") for n in range(num_outputs)) if has_outputs else (),
        payload=PAYLOADS.get(kind, {}) if payload is None else payload,
        draft=None,
        draft_version=0,
        draft_saved=None,
        answer=None,
        answered=None,
        late=False,
        surplus=False,
        skip_reason=None,
        instruction_id=None,
    )


VIEWS = [view_of(kind) for kind in KINDS] + [view_of("write_prompt", payload={"style": "few_shot"})]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.kind)
def test_a_whole_answer_goes_into_the_form_and_back(view: AssignmentView) -> None:
    answer = answer_for(view)
    fields = forms.fields_of_answer(view, answer)
    assert forms.parse(view, fields) == forms.Parsed(answer=answer, errors={})
    assert forms.draft_of_fields(view, fields) == {"fields": fields}


def values(view: AssignmentView) -> st.SearchStrategy[dict[str, str]]:
    """Any form of a kind: its fields with good values, bad values, or left out."""
    letters = forms.letters(view)
    names = [
        f"{letter}.{name}" for letter in letters for name in ("overall", "group", "toxicity", "relative_toxicity", "continuity")
    ]
    names += [f"{letter}.flag.{flag}" for letter in letters for flag in RATING_FLAGS[:2]]
    names += ["text", "use_case", "instruction", "note", "personal_data", "sensitive", "score", "topic.0", "topic.9"]
    names += [f"flag.{PROMPT_FLAGS[0]}", *(f"pair.{n}.{part}" for n in (1, 2, 5, 99) for part in ("query", "response"))]
    number = st.integers(-2, 9).map(str)
    value = st.one_of(number, st.sampled_from([*USE_CASE_SHARES, "yes", "no", "on", "", "٣", "1.0", "+1"]), TEXT)
    return st.dictionaries(st.sampled_from(names), value)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.kind)
def test_whatever_is_sent_is_an_answer_that_the_store_takes_or_has_errors(view: AssignmentView) -> None:
    @settings(deadline=None, max_examples=60)
    @given(values(view))
    def check(fields: dict[str, str]) -> None:
        parsed = forms.parse(view, fields)
        assert (parsed.answer is None) == bool(parsed.errors)
        if parsed.answer is None:
            return
        check_answer(view.kind, view.for_check, parsed.answer)
        # What the form says is what it says again when it is filled in from the answer.
        assert forms.parse(view, forms.fields_of_answer(view, parsed.answer)) == parsed

    check()


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), TEXT),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["ratings", "groups", "labels", "r0", "overall", "flags", "text", "pairs", "topics"]), inner
        ),
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.kind)
def test_any_draft_can_be_shown(view: AssignmentView) -> None:
    @settings(deadline=None, max_examples=60)
    @given(
        st.dictionaries(st.sampled_from(["fields", "ratings", "groups", "labels", "text", "pairs", "topics", "flags"]), JUNK)
    )
    def check(draft: dict[str, Any]) -> None:
        fields = forms.fields_of_draft(view, draft)
        assert all(isinstance(name, str) and isinstance(value, str) for name, value in fields.items())
        forms.order_in_signs(view, fields)
        assert forms.pairs_shown(fields) >= 1

    check()


@pytest.mark.parametrize(
    ("numbers", "groups", "signs"),
    [
        ("1123", [["r0", "r1"], ["r2"], ["r3"]], "A = B > C > D"),
        ("4114", [["r1", "r2"], ["r0", "r3"]], "B = C > A = D"),
        ("9999", [["r0", "r1", "r2", "r3"]], "A = B = C = D"),
        ("4321", [["r3"], ["r2"], ["r1"], ["r0"]], "D > C > B > A"),
    ],
)
def test_groups_best_first_with_gaps_closed_up(numbers: str, groups: list[list[str]], signs: str) -> None:
    view = view_of("rank")
    fields = {f"{letter}.group": number for letter, number in zip("ABCD", numbers, strict=True)}
    fields |= {f"{letter}.overall": "4" for letter in "ABCD"}
    parsed = forms.parse(view, fields)
    assert parsed.answer is not None
    assert parsed.answer["groups"] == groups
    assert forms.order_in_signs(view, fields) == signs


@pytest.mark.parametrize(("name", "value"), [("A.overall", "8"), ("B.overall", "0"), ("C.group", "0"), ("D.group", "best")])
def test_the_field_that_is_wrong_is_named(name: str, value: str) -> None:
    view = view_of("rank")
    fields = {f"{letter}.{field}": "1" for letter in "ABCD" for field in ("overall", "group")} | {name: value}
    parsed = forms.parse(view, fields)
    assert list(parsed.errors) == [name]
    assert f"Output {name[0]}" in parsed.errors[name]


@pytest.mark.parametrize(
    ("sent", "kept"), [("12.5", 12.5), ("", None), ("-3", None), ("nan", None), ("inf", None), ("1e9", 100.0), ("abc", None)]
)
def test_seconds_spent(sent: str, kept: float | None) -> None:
    assert forms.seconds_spent({"seconds_spent": sent}, 100.0) == kept


def test_the_stores_check_is_what_the_forms_meet() -> None:
    with pytest.raises(DataError):
        check_answer("rank", view_of("rank").for_check, {"ratings": {}, "groups": []})
