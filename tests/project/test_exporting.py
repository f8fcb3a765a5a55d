from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from heedful.conversation import continuation, turns_of
from heedful.errors import ConfigError, DataError, MissingError, StorageError
from heedful.project.data_folder import Records
from heedful.project.exporting import comparisons, export_file
from heedful.project.files import read_jsonl
from heedful.project.importing import import_file
from heedful.records import Demonstration, Prompt, Ranking, Rating, Response

DIALOGUE = "Human: Hi\n\nAssistant: Hello!\n\nHuman: Name a river.\n\nAssistant:"
MESSAGES = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Name a river."},
]
CODE = "    def area(r):\n        return 3 * r * r"


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def records() -> Records:
    return Records.of(
        [
            Prompt(id="p", turns=turns_of("Name a hill.\n"), user="u", use_case="open_qa", metadata={"n": [1, 2]}),
            Prompt(id="q", turns=turns_of(DIALOGUE), split="test", source="labeler"),
            *(Response(id=f"p{n}", prompt_id="p", text=f"answer {n} ", model="m") for n in range(4)),
            Response(id="q0", prompt_id="q", text=" The Rhine.", finished=False),
            Response(id="q1", prompt_id="q", text=""),
            Demonstration(id="d", prompt_id="q", text=" The Po.", labeler="anna"),
            # By hand: 1 < {0, 2} < 3 in quality from the worst; six pairs of which one is a tie.
            Ranking(id="k", prompt_id="p", response_ids=("p0", "p1", "p2", "p3"), ranks=(2, 3, 2, 1), labeler="anna"),
            Ranking(id="l", prompt_id="q", response_ids=("q0", "q1"), ranks=(1, 1), labeler="bea"),
            Ranking(id="m", prompt_id="q", response_ids=("q0",), ranks=(1,), labeler="bea"),
            Ranking(id="n", prompt_id="q", response_ids=("q1", "q0"), ranks=(2, 1), labeler="bea"),
            Rating(id="g", prompt_id="q", response_id="q1", labeler="bea", overall=1, flags={"fails_task": True}),
        ]
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    records().save(tmp_path / "data")
    return tmp_path / "data"


def rows(path: Path) -> list[dict[str, object]]:
    return [row for _, row in read_jsonl(path)]


def test_comparisons_are_all_pairs_but_the_ties_better_first() -> None:
    assert sorted(comparisons(records().rankings["k"])) == [
        ("p0", "p1"),
        ("p2", "p1"),
        ("p3", "p0"),
        ("p3", "p1"),
        ("p3", "p2"),
    ]


def test_demonstrations_for_trl(data: Path, tmp_path: Path) -> None:
    report = export_file("trl-sft", data, tmp_path / "out.jsonl")
    assert rows(tmp_path / "out.jsonl") == [{"prompt": MESSAGES, "completion": said("The Po.")}]
    assert (report.written, report.notes) == (1, {})


def test_chat_messages(data: Path, tmp_path: Path) -> None:
    export_file("messages", data, tmp_path / "out.jsonl")
    assert rows(tmp_path / "out.jsonl") == [{"messages": MESSAGES + said("The Po.")}]


def test_under_a_chat_template_a_lone_prompt_is_a_message_too(data: Path, tmp_path: Path) -> None:
    """TRL renders messages and leaves text alone: trained on text, it would train another format than Heedful."""
    hill = [{"role": "user", "content": "Name a hill."}]
    export_file("trl-preference", data, tmp_path / "out.jsonl", template="chat")
    first = rows(tmp_path / "out.jsonl")[0]
    assert first["prompt"] == hill
    assert first["chosen"] == said("answer 0")
    assert rows(tmp_path / "out.jsonl")[-1]["prompt"] == MESSAGES


def test_comparisons_for_trl_and_what_was_left_out(data: Path, tmp_path: Path) -> None:
    report = export_file("trl-preference", data, tmp_path / "out.jsonl.gz")
    written = rows(tmp_path / "out.jsonl.gz")
    assert len(written) == report.written == 6
    assert {"prompt": "Name a hill.\n", "chosen": "answer 3 ", "rejected": "answer 1 "} in written
    assert written[-1] == {"prompt": MESSAGES, "chosen": said("The Rhine."), "rejected": said("")}
    assert report.notes == {"ties dropped": 2, "rankings of one response, which hold no comparison": 1}
    assert "2 ties dropped" in str(report)


JUDGED: list[Any] = [
    Ranking(id="e", prompt_id="p", response_ids=("p0", "p1"), ranks=(1, 2), labeler="eva", phase="evaluation"),
    Ranking(id="s", prompt_id="p", response_ids=("p0", "p1"), ranks=(1, 2), labeler="sue", phase="screening"),
    Ranking(id="h", prompt_id="p", response_ids=("p0", "p1"), ranks=(1, 2), labeler="hal", metadata={"group": "held_out"}),
    Rating(id="f", prompt_id="p", response_id="p0", labeler="eva", overall=2, phase="evaluation"),
    Demonstration(id="x", prompt_id="p", text="A hill.", labeler="eva", phase="evaluation"),
]


def test_what_is_for_evaluation_is_in_no_file_for_training_and_counted(tmp_path: Path) -> None:
    Records.of([*records().all(), *JUDGED]).save(tmp_path / "data")
    report = export_file("trl-preference", tmp_path / "data", tmp_path / "out.jsonl")
    left_out = "that no model may learn from: for evaluation or screening, or by held-out labelers"
    assert (report.written, report.notes[f"rankings {left_out}"]) == (6, 3)
    for format in ("trl-sft", "messages"):
        report = export_file(format, tmp_path / "data", tmp_path / "out.jsonl")
        assert (report.written, report.notes) == (1, {f"demonstrations {left_out}": 1})


def test_the_phase_of_our_own_records_comes_back(tmp_path: Path) -> None:
    of = Records.of([*records().all(), *JUDGED, Response(id="pe", prompt_id="p", text="x", phase="evaluation")])
    of.save(tmp_path / "data")
    export_file("heedful", tmp_path / "data", tmp_path / "out.jsonl")
    import_file("heedful", tmp_path / "out.jsonl", tmp_path / "back")
    assert Records.load(tmp_path / "back") == of


def test_exported_comparisons_come_back_the_same(data: Path, tmp_path: Path) -> None:
    def continued(of: Records, id: str) -> str:
        return continuation(of.prompts[of.responses[id].prompt_id].turns, of.responses[id].text)

    def texts(of: Records) -> Counter[tuple[str, str, str]]:
        return Counter(
            (of.prompts[k.prompt_id].text, continued(of, better), continued(of, worse))
            for k in of.rankings.values()
            for better, worse in comparisons(k)
        )

    export_file("trl-preference", data, tmp_path / "out.jsonl")
    report = import_file("trl-preference", tmp_path / "out.jsonl", tmp_path / "back")
    assert report.accepted == 6
    assert texts(Records.load(tmp_path / "back")) == texts(records())


def test_our_own_records_come_back_exactly(data: Path, tmp_path: Path) -> None:
    report = export_file("heedful", data, tmp_path / "out.jsonl")
    assert [row["kind"] for row in rows(tmp_path / "out.jsonl")] == ["prompt"] * 2 + ["response"] * 6 + [
        "demonstration",
        *["ranking"] * 4,
        "rating",
    ]
    assert import_file("heedful", tmp_path / "out.jsonl", tmp_path / "back").accepted == report.written == 14
    assert Records.load(tmp_path / "back") == records()


@pytest.mark.parametrize(("export_as", "import_as"), [("trl-sft", "alpaca"), ("messages", "messages")])
def test_exported_demonstrations_come_back_the_same(data: Path, tmp_path: Path, export_as: str, import_as: str) -> None:
    export_file(export_as, data, tmp_path / "out.jsonl")
    import_file(import_as, tmp_path / "out.jsonl", tmp_path / "back")
    back = Records.load(tmp_path / "back")
    (demonstration,) = back.demonstrations.values()
    prompt = back.prompts[demonstration.prompt_id]
    assert prompt == replace(records().prompts["q"], id=prompt.id, split=prompt.split, source="imported")
    assert demonstration.text == "The Po."
    assert continuation(prompt.turns, demonstration.text) == " The Po."


@pytest.mark.parametrize(
    ("export_as", "import_as"),
    [("trl-sft", "alpaca"), ("messages", "messages"), ("trl-preference", "trl-preference"), ("heedful", "heedful")],
)
@pytest.mark.parametrize("prompt", [f"{CODE}\n", f"Human: Hi\n\nAssistant: Yes?\n\nHuman:{CODE}\n\nAssistant:"])
def test_code_goes_out_and_comes_back_with_its_indentation(tmp_path: Path, export_as: str, import_as: str, prompt: str) -> None:
    of = [
        Prompt(id="p", turns=turns_of(prompt)),
        Response(id="a", prompt_id="p", text=CODE),
        Response(id="b", prompt_id="p", text="No."),
        Demonstration(id="d", prompt_id="p", text=CODE, labeler="anna"),
        Ranking(id="k", prompt_id="p", response_ids=("a", "b"), ranks=(1, 2), labeler="anna"),
    ]
    Records.of(of).save(tmp_path / "data")
    export_file(export_as, tmp_path / "data", tmp_path / "out.jsonl")
    import_file(import_as, tmp_path / "out.jsonl", tmp_path / "back")
    back = Records.load(tmp_path / "back")
    assert [p.turns for p in back.prompts.values()] == [turns_of(prompt)]
    assert {d.text for d in back.demonstrations.values()} <= {CODE}
    assert {r.text for r in back.responses.values()} in (set(), {CODE, "No."})


def test_one_split_alone(data: Path, tmp_path: Path) -> None:
    assert export_file("trl-preference", data, tmp_path / "out.jsonl", split="train").written == 5
    assert export_file("heedful", data, tmp_path / "out.jsonl", split="test").written == 8
    import_file("heedful", tmp_path / "out.jsonl", tmp_path / "back")
    assert list(Records.load(tmp_path / "back").prompts) == ["q"]


def test_a_file_for_each_split(data: Path, tmp_path: Path) -> None:
    report = export_file("trl-preference", data, tmp_path / "my.pairs.jsonl.gz", split="each")
    train, test = tmp_path / "my.pairs.train.jsonl.gz", tmp_path / "my.pairs.test.jsonl.gz"
    assert report.rows == {str(train): 5, str(test): 1}
    assert report.mixed is None
    assert [len(rows(train)), len(rows(test))] == [5, 1]
    assert {row["prompt"] for row in rows(train)} == {"Name a hill.\n"}
    assert sorted(path.name for path in tmp_path.glob("*pairs*")) == [test.name, train.name]  # none for valid
    assert f"5 rows in {train}\n" in report.summary()
    # Together the files hold what one file would.
    export_file("trl-preference", data, tmp_path / "all.jsonl")
    assert rows(train) + rows(test) == rows(tmp_path / "all.jsonl")
    assert list(export_file("messages", data, tmp_path / "chats", split="each").rows) == [str(tmp_path / "chats.test")]


def test_one_file_with_several_splits_is_reported(data: Path, tmp_path: Path) -> None:
    report = export_file("trl-preference", data, tmp_path / "out.jsonl")
    assert "mixes rankings of several splits (1 of train, 3 of test)" in str(report.mixed)
    assert "--split each" in report.summary()
    for format, split in (("trl-preference", "train"), ("trl-sft", None), ("heedful", None)):
        assert export_file(format, data, tmp_path / "out.jsonl", split=split).mixed is None  # type: ignore[arg-type]


def test_nothing_to_export_is_an_error_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to export as trl-sft") as caught:
        export_file("trl-sft", data, tmp_path / "out.jsonl", split="valid")
    assert "demonstration" in str(caught.value.expected)
    assert not (tmp_path / "out.jsonl").exists()


def test_what_the_user_may_get_wrong(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'trl-sft'"):
        export_file("trl-stf", data, tmp_path / "out.jsonl")
    with pytest.raises(MissingError):
        export_file("trl-sft", tmp_path / "none", tmp_path / "out.jsonl")
    with pytest.raises(StorageError):
        export_file("trl-sft", data, data / "prompts.jsonl" / "out.jsonl")


def test_a_folder_is_no_file_to_write(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a file"):
        export_file("heedful", data, tmp_path)
