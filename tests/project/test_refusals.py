"""The policy of refusals, marked prompts, and what is said of those that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from heedful.conversation import Turn
from heedful.errors import ConfigError, DataError, MissingError, UserError
from heedful.presets import RefusalsConfig
from heedful.project.data_folder import Records
from heedful.project.importing import import_file
from heedful.project.refusals import Refusals, apart, mark_of, ordinary, read_policy, refusals_in
from heedful.records import Demonstration, Prompt, Ranking, Response

POLICY = """
[medical]
covers = "Doses"
answer = "I can't say. Please ask a doctor!"

[legal]
covers = "Contracts"
answer = "Ask a lawyer"
phrases = ["a lawyer", "no legal advice"]
"""


def prompt(id: str, split: Any = "train", **metadata: Any) -> Prompt:
    return Prompt(id=id, turns=(Turn("user", f"What is {id}?"),), split=split, metadata=metadata)


def demonstration(prompt_id: str, text: str, **more: Any) -> Demonstration:
    return Demonstration(id=f"d-{prompt_id}", prompt_id=prompt_id, text=text, labeler="ann", **more)


def written(tmp_path: Path, policy: str = POLICY) -> Path:
    path = tmp_path / "refusals.toml"
    path.write_text(policy, encoding="utf-8")
    return path


def refusals(tmp_path: Path, *records: Any, weights: dict[str, float] | None = None, policy: str = POLICY) -> Refusals:
    path = written(tmp_path, policy)
    return refusals_in(path, weights or {}, Records.of(records), data=Path("data"), config=Path("heedful.toml"))


def test_an_answer_declines_if_it_has_a_phrase_of_any_category(tmp_path: Path) -> None:
    found = refusals(tmp_path)
    assert found.categories["medical"].phrases == ("I can't say.",)
    assert found.declines("Well,  I CAN’T\nsay. Sorry.")
    assert found.declines("We give no legal advice here")
    assert not found.declines("Please ask a doctor!")
    assert not found.declines("")


def test_what_is_learned_and_what_is_asked(tmp_path: Path) -> None:
    records = (
        prompt("m", decline="medical"),
        prompt("own", decline="medical"),
        prompt("near", do_not_decline="medical"),
        prompt("bare", do_not_decline="medical"),
        prompt("l", decline="legal"),
        prompt("v", "valid", decline="medical"),
        prompt("t", "test", do_not_decline="legal"),
        demonstration("own", "Sorry, I can't say."),
        demonstration("near", "A medicine."),
        demonstration("v", "I can't say."),
    )
    found = refusals(tmp_path, *records, weights={"legal": 0})
    assert [one.id for one in found.training_prompts()] == ["m", "own", "near", "bare"]
    assert [one.id for one in found.held_out_prompts()] == ["v", "t"]
    learned = {one.prompt_id: one.text for one in found.demonstrations()}
    assert learned == {"m": "I can't say. Please ask a doctor!", "own": "Sorry, I can't say.", "near": "A medicine."}
    assert found.refusal_texts() == {"I can't say. Please ask a doctor!", "Sorry, I can't say."}
    on = refusals(tmp_path, *records)
    assert [one.id for one in on.training_prompts()][-1] == "l"


def test_a_training_prompt_with_a_held_out_text_is_not_trained_on(tmp_path: Path) -> None:
    same = Prompt(id="again", turns=prompt("v").turns, metadata={"decline": "medical"})
    found = refusals(tmp_path, same, prompt("v", "valid", decline="medical"))
    assert found.training_prompts() == []


def test_the_identity_is_of_what_training_takes(tmp_path: Path) -> None:
    records = (prompt("m", decline="medical"), prompt("l", decline="legal"), prompt("v", "valid", decline="legal"))
    was = refusals(tmp_path, *records, weights={"legal": 0})
    for same in (
        refusals(tmp_path, records[0], weights={"legal": 0}),
        refusals(tmp_path, *records, weights={"legal": 0}, policy=POLICY.replace("no legal advice", "never")),
        refusals(tmp_path, *records, weights={"legal": 0, "medical": 1}),
    ):
        assert same.identity() == was.identity()
    for other in (
        refusals(tmp_path, *records),
        refusals(tmp_path, *records, weights={"legal": 0}, policy=POLICY.replace("Please ask", "Do ask")),
        refusals(tmp_path, prompt("n", decline="medical"), weights={"legal": 0}),
        refusals(tmp_path, *records, demonstration("m", "I can't say."), weights={"legal": 0}),
    ):
        assert other.identity() != was.identity()
    heavier = refusals(tmp_path, *records, weights={"legal": 0, "medical": 2})
    assert heavier.identity() != was.identity()
    assert heavier.identity(weighted=False) == was.identity(weighted=False)


def test_marked_prompts_are_apart_with_all_that_names_them() -> None:
    kept, marked = prompt("kept"), prompt("marked", decline="medical")
    named = [Response(id=f"r-{one.id}", prompt_id=one.id, text="yes", model="sft") for one in (kept, marked)]
    rankings = [
        Ranking(id=f"k-{r.prompt_id}", prompt_id=r.prompt_id, response_ids=(r.id,), ranks=(1,), labeler="a") for r in named
    ]
    answers = [demonstration(one.id, "yes") for one in (kept, marked)]
    everything = Records.of([kept, marked, *named, *rankings, *answers])
    usual, others = apart(everything)
    for records, id in ((usual, "kept"), (others, "marked")):
        assert [list(getattr(records, kind)) for kind in ("prompts", "responses", "demonstrations", "rankings")] == [
            [id],
            [f"r-{id}"],
            [f"d-{id}"],
            [f"k-{id}"],
        ]
    assert ordinary(usual) is usual  # nothing is marked: the same object


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("[medical\n", "cannot be read"),
        ("", "names no category"),
        ('["a b"]\ncovers = "x"\nanswer = "x"\n', "other characters than it may have"),
        ('[a]\ncovers = "x"\n', "lacks 'answer'"),
        ('[a]\ncovers = "x"\nanswer = "x"\nphrase = ["x"]\n', "did you mean 'phrases'?"),
        ('[a]\ncovers = "x"\nanswer = " "\n', "answer of the category [a] is empty"),
        ('[a]\ncovers = "x"\nanswer = "no"\nphrases = ["yes"]\n', "contains none of its phrases"),
        ('[a]\ncovers = "x"\nanswer = "no"\nphrases = [""]\n', "phrases of the category [a] is empty"),
        ("a = 1\n", "the category [a] cannot be read"),
    ],
)
def test_a_bad_policy_is_refused(tmp_path: Path, policy: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_policy(written(tmp_path, policy))
    assert words in str(caught.value)
    assert "refusals.toml" in str(caught.value)


def test_a_policy_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="the policy of refusals is not there"):
        read_policy(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("records", "weights", "kind", "words"),
    [
        ([], {"medicla": 1.0}, ConfigError, ["weights names 'medicla'", "did you mean 'medical'?", "heedful.toml"]),
        ([prompt("p7", decline="medicla")], {}, DataError, ["'p7'", "'medicla'", "did you mean 'medical'?", "prompts.jsonl"]),
        ([prompt("p7", decline="legal", do_not_decline="legal")], {}, DataError, ["'p7'", "one of decline and do_not_decline"]),
        ([prompt("p7", decline=3)], {}, DataError, ["'p7'", "with the name of a category"]),
        (
            [
                prompt("p7", decline="legal"),
                demonstration("p7", "Sign it."),
                prompt("q", decline="legal"),
                demonstration("q", "x"),
            ],
            {},
            DataError,
            ["'d-p7' does not decline", "'Sign it.' (prompt 'p7'); 1 other", "demonstrations.jsonl", "add a phrase"],
        ),
        (
            [prompt("p7", do_not_decline="legal"), demonstration("p7", "Ask a lawyer.")],
            {},
            DataError,
            ["'d-p7' declines, but its prompt must be answered"],
        ),
    ],
)
def test_a_bad_row_is_named(
    tmp_path: Path, records: list[Any], weights: dict[str, float], kind: type[UserError], words: list[str]
) -> None:
    with pytest.raises(kind) as caught:
        refusals(tmp_path, *records, weights=weights)
    for word in words:
        assert word in str(caught.value)


def test_an_answer_for_evaluation_is_not_learned_and_not_checked(tmp_path: Path) -> None:
    found = refusals(tmp_path, prompt("p", decline="legal"), demonstration("p", "Sign it.", phase="evaluation"))
    assert [one.text for one in found.demonstrations()] == ["Ask a lawyer"]


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan")])
def test_a_weight_out_of_range_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match="weights: medical is out of range"):
        RefusalsConfig(weights={"medical": weight})


def test_an_import_marks_prompts_that_are_there(tmp_path: Path) -> None:
    data, file = tmp_path / "data", tmp_path / "in.jsonl"

    def given(text: str) -> Any:
        file.write_text(text)
        return import_file("heedful", file, data)

    given('{"kind": "prompt", "id": "p", "text": "one", "user": "u", "metadata": {"kept": 1}}\n')
    report = given('{"kind": "prompt", "id": "other", "text": "one", "user": "u", "metadata": {"decline": "medical"}}\n')
    assert (report.accepted, report.merged) == (0, 1)
    assert any("marked for refusals" in note for note in report.notes)
    (there,) = Records.load(data).prompts.values()
    assert dict(there.metadata) == {"kept": 1, "decline": "medical"}
    given('{"kind": "prompt", "id": "p", "text": "one", "metadata": {"do_not_decline": "legal"}}\n')
    (there,) = Records.load(data).prompts.values()
    assert mark_of(there) == ("legal", False)
    again = given('{"kind": "prompt", "id": "p", "text": "one"}\n')  # without a mark: the mark stays
    assert not again.notes
    assert mark_of(next(iter(Records.load(data).prompts.values()))) == ("legal", False)
