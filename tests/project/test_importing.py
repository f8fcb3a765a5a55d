from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from heedful.conversation import turns_of
from heedful.errors import ConfigError, DataError, MissingError
from heedful.project.data_folder import Records
from heedful.project.exporting import comparisons
from heedful.project.files import read_jsonl, write_jsonl
from heedful.project.importing import ImportReport, import_file
from heedful.records import Prompt, Response


def put(tmp_path: Path, rows: Iterable[object], name: str = "in.jsonl") -> Path:
    write_jsonl(tmp_path / name, rows)
    return tmp_path / name


def take(format: str, tmp_path: Path, rows: Iterable[object], **options: Any) -> tuple[ImportReport, Records]:
    report = import_file(format, put(tmp_path, rows), tmp_path / "data", **options)
    assert report.read == report.accepted + report.merged + report.rejected + sum(report.skipped.values())
    records = Records.load(tmp_path / "data")
    return report, records


def pairs(records: Records) -> list[tuple[str, str, str]]:
    """Every comparison as (prompt, better, worse) texts."""
    return sorted(
        (records.prompts[k.prompt_id].text, records.responses[better].text, records.responses[worse].text)
        for k in records.rankings.values()
        for better, worse in comparisons(k)
    )


def message(role: str, text: str, *replies: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"message_id": f"id of {text}", "role": role, "text": text, "lang": "en", "replies": list(replies), **more}


def tree(root: dict[str, Any], state: str = "ready_for_export") -> dict[str, Any]:
    return {"message_tree_id": root["message_id"], "tree_state": state, "prompt": root}


# ---------------------------------------------------------------------------------------------------- oasst


def test_a_tree_becomes_prompts_rankings_and_demonstrations(tmp_path: Path) -> None:
    root = message(
        "prompter",
        "Name a river.",
        message("assistant", "Everest.", rank=2),
        message(
            "assistant",
            "The Rhine.",
            message("prompter", "Another one?", message("assistant", "The Po."), message("assistant", "The Don.")),
            message("prompter", "Thanks!"),
            rank=0,
        ),
        message("assistant", "Rivers are nice.", rank=1, synthetic=True, model_name="chip20b"),
    )
    report, records = take("oasst", tmp_path, [tree(root)])
    dialogue = "Human: Name a river.\n\nAssistant: The Rhine.\n\nHuman: {}\n\nAssistant:"
    first, another, thanks = "Name a river.\n", dialogue.format("Another one?"), dialogue.format("Thanks!")
    assert {p.text for p in records.prompts.values()} == {first, another, thanks}
    assert {p.language for p in records.prompts.values()} == {"en"}
    assert pairs(records) == [
        (first, "Rivers are nice.", "Everest."),
        (first, "The Rhine.", "Everest."),
        (first, "The Rhine.", "Rivers are nice."),
    ]
    (ranking,) = records.rankings.values()
    assert (sorted(ranking.ranks), ranking.labeler) == ([1, 2, 3], "oasst")
    (demonstration,) = records.demonstrations.values()  # the unranked siblings are none
    assert (demonstration.text, records.prompts[demonstration.prompt_id].text) == ("The Rhine.", first)
    assert {(r.text, r.model) for r in records.responses.values()} == {
        ("Everest.", "human"),
        ("The Rhine.", "human"),
        ("Rivers are nice.", "chip20b"),
        ("The Po.", "human"),
        ("The Don.", "human"),
    }
    assert report.notes["prompts whose replies have no ranks: no ranking, no demonstration"] == 1
    assert report.notes["replies written by a model, ranked but no demonstrations"] == 1
    assert len({p.split for p in records.prompts.values()}) == 1


def test_the_best_human_reply_is_the_demonstration_even_where_a_model_was_better(tmp_path: Path) -> None:
    root = message(
        "prompter",
        "Q",
        message("assistant", "third", rank=2),
        message("assistant", "first", rank=0, synthetic=True),
        message("assistant", "second", rank=1),
    )
    _, records = take("oasst", tmp_path, [tree(root)], labeler="us")
    assert [(d.text, d.labeler) for d in records.demonstrations.values()] == [("second", "us")]


def test_an_only_reply_without_rank_is_a_demonstration_unless_a_model_wrote_it(tmp_path: Path) -> None:
    rows = [
        tree(message("prompter", "A", message("assistant", "x"))),
        tree(message("prompter", "B", message("assistant", "y", synthetic=True))),
    ]
    _, records = take("oasst", tmp_path, rows)
    assert [d.text for d in records.demonstrations.values()] == ["x"]
    assert not records.rankings


def test_equal_ranks_are_a_tie_and_gaps_are_closed(tmp_path: Path) -> None:
    replies = [message("assistant", text, rank=rank) for text, rank in [("a", 0), ("b", 4), ("c", 4)]]
    _, records = take("oasst", tmp_path, [tree(message("prompter", "Q", *replies))])
    (ranking,) = records.rankings.values()
    by_text = {records.responses[r].text: rank for r, rank in zip(ranking.response_ids, ranking.ranks, strict=True)}
    assert by_text == {"a": 1, "b": 2, "c": 2}


def test_deleted_spam_and_doubled_messages_are_left_out_and_counted(tmp_path: Path) -> None:
    root = message(
        "prompter",
        "Q",
        message("assistant", "gone", message("prompter", "under it", message("assistant", "too")), rank=0, deleted=True),
        message("assistant", "buy!", rank=1, labels={"spam": {"value": 0.9, "count": 3}}),
        message("assistant", "failed", rank=2, review_result=False),
        message("assistant", "good", rank=3, labels={"spam": {"value": 0.1, "count": 3}}),
        message("assistant", "good", rank=4),
        message("assistant", " ", rank=5),
        message("assistant", "worse", rank=6, labels=None),
    )
    report, records = take("oasst", tmp_path, [tree(root)])
    assert pairs(records) == [("Q\n", "good", "worse")]
    assert report.notes == {
        "deleted messages left out": 1,
        "messages under a deleted, spam or empty one, left out": 2,
        "messages that are spam or failed review, left out": 2,
        "empty messages left out": 1,
        "replies with the same text as a sibling, left out": 1,
    }


def test_trees_without_use_are_skipped_and_broken_ones_rejected(tmp_path: Path) -> None:
    good = message("prompter", "Q", message("assistant", "A"))
    report, _ = take(
        "oasst",
        tmp_path,
        [
            tree(good),
            tree(message("prompter", "spam"), state="aborted_low_grade"),
            tree(message("prompter", "x", deleted=True)),
            {"message_id": "1", "role": "prompter", "text": "a single message", "parent_id": None},
            tree(message("assistant", "the wrong way round")),
            tree(message("prompter", "Q2", message("prompter", "not an answer"))),
            tree(message("prompter", "Q3", message("assistant", "A", rank="best"))),
            tree({"message_id": "2", "role": "prompter", "replies": []}),
        ],
    )
    assert (report.accepted, report.rejected) == (1, 5)
    assert report.skipped == {"tree_state is aborted_low_grade": 1, "the first message is deleted, empty or spam": 1}
    assert [reason.split(":")[0] for reason in report.reasons] == [f"line {n}" for n in (4, 5, 6, 7, 8)]


def test_all_prompts_of_a_users_trees_are_that_users(tmp_path: Path) -> None:
    rows = [
        tree(message("prompter", f"Question {n}", message("assistant", "A", user_id="writer"), user_id=f"user {n % 7}"))
        for n in range(70)
    ]
    _, records = take("oasst", tmp_path, rows, split_shares=(0.4, 0.3, 0.3))
    splits = {(p.user, p.split) for p in records.prompts.values()}
    assert len(splits) == 7  # each user in one split
    assert len({split for _, split in splits}) > 1
    assert {d.labeler for d in records.demonstrations.values()} == {"writer"}


# ---------------------------------------------------------------------------------------------------- hh-rlhf


def test_a_pair_of_dialogues_is_a_prompt_and_a_comparison(tmp_path: Path) -> None:
    before = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Name a river.\n\nAssistant:"
    rows = [
        {"chosen": before + " The Rhine.", "rejected": before + " No.\n\nNever."},
        {"chosen": "\n\nHuman: One?\n\nAssistant: Yes", "rejected": "\n\nHuman: One?\n\nAssistant: "},
    ]
    _, records = take("hh-rlhf", tmp_path, rows)
    assert pairs(records) == [(before.strip(), "The Rhine.", "No.\n\nNever."), ("One?\n", "Yes", "")]
    assert not records.demonstrations


def test_dialogues_that_are_no_comparison_are_rejected(tmp_path: Path) -> None:
    good = {"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: B"}
    bad = [
        {"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: A "},
        {"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: R\n\nAssistant: B"},
        {"chosen": "\n\nHuman: Q\n\nAssistant: A\n\nHuman: R\n\nAssistant: C", "rejected": "\n\nHuman: Q\n\nAssistant: B"},
        {"chosen": "\n\nHuman: Q\n\nAssistant: A\n\nHuman: R", "rejected": "\n\nHuman: Q\n\nAssistant: B"},
        {"chosen": "Q", "rejected": "R"},
        {"chosen": "\n\nHuman: Q\n\nAssistant: A"},
        {"chosen": 1, "rejected": 2},
        {"chosen": "\n\nAssistant: A", "rejected": "\n\nAssistant: B"},
    ]
    report, records = take("hh-rlhf", tmp_path, [good, *bad])
    assert (report.accepted, report.rejected) == (1, len(bad))
    assert pairs(records) == [("Q\n", "A", "B")]
    assert "the same" in report.reasons[0]
    assert "differ before" in report.reasons[1]


# What commit 437d29f made of these rows: conversations as one text, responses with the space after the colon.
OLD_ROWS = {
    "hh-rlhf": [
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Name a river.\n\nAssistant: The Rhine.",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Name a river.\n\nAssistant: No.",
        }
    ],
    "messages": [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi "},
                {"role": "assistant", "content": "Hello!"},
            ]
        },
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello!"},
                {"role": "user", "content": "Name a river."},
                {"role": "assistant", "content": "The Po."},
            ]
        },
    ],
}
OLD_RECORDS = {
    "prompts": r"""
{"id": "prompt-3020723c9f9dda29", "text": "Human: Hi\n\nAssistant: Hello!\n\nHuman: Name a river.\n\nAssistant:"}
{"id": "prompt-8b88b8d1e609974f", "text": "Be brief.\n\nHi\n", "source": "imported", "split": "train"}
{"id": "prompt-a26b3ee9a04a3cf0", "text": "Be brief.\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Name a river.\n\nAssistant:"}
""",
    "responses": r"""
{"id": "response-df6d79960f8bddbd", "prompt_id": "prompt-3020723c9f9dda29", "text": " The Rhine.", "finished": true}
{"id": "response-d2d5a462a138f1fe", "prompt_id": "prompt-3020723c9f9dda29", "text": " No.", "finished": true}
""",
    "demonstrations": r"""
{"id": "demonstration-f1ff788347f43642", "prompt_id": "prompt-8b88b8d1e609974f", "text": "Hello!", "labeler": "messages"}
{"id": "demonstration-bc60667f1673e8b5", "prompt_id": "prompt-a26b3ee9a04a3cf0", "text": " The Po.", "labeler": "messages"}
""",
    "rankings": r"""
{"id": "ranking-6eff0bf4be1aa149", "prompt_id": "prompt-3020723c9f9dda29", """
    r""""response_ids": ["response-d2d5a462a138f1fe", "response-df6d79960f8bddbd"], "ranks": [2, 1], "labeler": "hh-rlhf"}
""",
}


@pytest.mark.parametrize("format", OLD_ROWS)
def test_a_file_that_an_older_version_imported_adds_nothing(tmp_path: Path, format: str) -> None:
    (tmp_path / "data").mkdir()
    for name, lines in OLD_RECORDS.items():
        (tmp_path / "data" / f"{name}.jsonl").write_text(lines)
    before = Records.load(tmp_path / "data")
    report, after = take(format, tmp_path, OLD_ROWS[format])
    assert (report.accepted, report.merged, report.rejected) == (0, len(OLD_ROWS[format]), 0)
    assert after == before


# ---------------------------------------------------------------------------------------------------- alpaca


@pytest.mark.parametrize("as_array", [True, False])
def test_instructions_become_demonstrations_and_comparisons(tmp_path: Path, as_array: bool) -> None:
    rows = [
        {"instruction": "Name a river.", "input": "", "output": "The Rhine."},
        {"instruction": "Spell it.", "input": "rever", "output": "river", "chosen": "river", "rejected": "rivver"},
        {"instruction": "Hi.", "output": "Hello.", "chosen": "Hi!", "rejected": "Hi!"},
        {"instruction": "Only a pair.", "chosen": "yes", "rejected": "no"},
    ]
    path = tmp_path / "in.json"
    path.write_text(json.dumps(rows, indent=4) if as_array else "\n".join(map(json.dumps, rows)))
    report = import_file("alpaca", path, tmp_path / "data", labeler="us")
    records = Records.load(tmp_path / "data")
    assert (report.read, report.accepted) == (4, 4)
    assert {(records.prompts[d.prompt_id].text, d.text) for d in records.demonstrations.values()} == {
        ("Name a river.\n", "The Rhine."),
        ("Spell it.\n\nrever\n", "river"),
        ("Hi.\n", "Hello."),
    }
    assert pairs(records) == [("Only a pair.\n", "yes", "no"), ("Spell it.\n\nrever\n", "river", "rivver")]
    assert {d.labeler for d in records.demonstrations.values()} == {"us"}
    assert list(report.notes.values()) == [1]


def test_prompt_and_response_rows_lose_alpacas_template_and_nothing_else(tmp_path: Path) -> None:
    template = "Below is an instruction that describes a task. Write a response.\n\n### Instruction:\n{}\n\n### Response:\n"
    rows = [
        {"prompt": template.format("Name a river."), "response": "The Rhine."},
        {"prompt": template.format("Spell it.\n\n### Input:\nrever"), "response": "river\n"},
        {"prompt": "The sky is", "completion": " blue. "},
        {"instruction": "Name a river.", "output": "The Rhine."},
    ]
    report, records = take("alpaca", tmp_path, rows)
    assert {(records.prompts[d.prompt_id].text, d.text) for d in records.demonstrations.values()} == {
        ("Name a river.\n", "The Rhine."),
        ("Spell it.\n\nrever\n", "river"),
        ("The sky is", " blue. "),
    }
    assert report.merged == 1


def test_instructions_without_answer_are_rejected(tmp_path: Path) -> None:
    good = {"instruction": "a", "output": "b"}
    bad = [
        {"instruction": "a", "output": ""},
        {"instruction": "a"},
        {"instruction": " ", "input": "x", "output": "b"},
        {"instruction": "a", "chosen": "x", "rejected": "x"},
        {"instruction": "a", "output": 3},
        {"prompt": "x"},
        "text",
    ]
    report, _ = take("alpaca", tmp_path, [good, *bad])
    assert report.rejected == len(bad)


def test_elements_of_an_array_are_named_by_line_and_a_broken_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_text('[\n  {"instruction": "a", "output": "b"},\n  {\n    "instruction": "a"\n  },\n  {"output": "x"}\n]\n')
    report = import_file("alpaca", path, tmp_path / "data")
    assert [reason.split(":")[0] for reason in report.reasons] == ["line 3", "line 6"]
    whole = path.read_text()
    for text in (whole.rstrip()[:-1], whole.replace("},\n  {\n", "}\n  {\n"), whole + "{}", "[1,]", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(DataError, match="not a whole JSON array"):
            import_file("alpaca", path, tmp_path / "data2")
    assert not (tmp_path / "data2").exists()


# ---------------------------------------------------------------------------------------------------- messages


def test_chats_become_demonstrations(tmp_path: Path) -> None:
    def chat(*turns: tuple[str, object], **more: object) -> dict[str, Any]:
        return {"messages": [{"role": role, "content": content} for role, content in turns], **more}

    rows = [
        chat(("user", "Hi"), ("assistant", "Hello!"), user="u1"),
        chat(("system", "Be brief."), ("user", "A"), ("assistant", "B"), ("user", "C"), ("assistant", "D"), ("user", "E")),
        chat(("user", [{"type": "text", "text": "parts"}]), ("assistant", "ok")),
        chat(("user", "nobody answered")),
        {"conversations": [{"from": "human", "value": "Hey"}, {"from": "gpt", "value": "Ho"}]},
        chat(("user", [{"type": "image", "url": "x"}]), ("assistant", "ok")),
        chat(("user", "x"), ("developer", "y"), ("assistant", "z")),
        chat(("user", "x"), ("system", "y"), ("assistant", "z")),
        chat(("user", "x"), ("assistant", "y"), ("assistant", "z")),
        chat(("assistant", "z")),
        chat(("user", "x"), ("assistant", "")),
        {"messages": []},
        {"messages": "x"},
        {},
    ]
    report, records = take("messages", tmp_path, rows)
    assert {(records.prompts[d.prompt_id].text, d.text) for d in records.demonstrations.values()} == {
        ("Hi\n", "Hello!"),
        ("parts\n", "ok"),
        ("Hey\n", "Ho"),
    }
    unanswered = records.prompts.keys() - {d.prompt_id for d in records.demonstrations.values()}
    assert {records.prompts[id].text for id in unanswered} == {
        "nobody answered\n",
        "Be brief.\n\nHuman: A\n\nAssistant: B\n\nHuman: C\n\nAssistant: D\n\nHuman: E\n\nAssistant:",
    }
    assert {p.user for p in records.prompts.values()} == {"u1", None}
    assert (report.accepted, report.rejected) == (5, 9)
    assert sum(report.notes.values()) == 2


def test_tools_speak_in_turns_of_their_own_and_calls_without_text_are_refused(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "How warm is it?"}, {"role": "assistant", "content": "I look."}]
    rows = [
        {"messages": [*asked, {"role": "tool", "content": "12 degrees"}, {"role": "assistant", "content": "It is cool."}]},
        {"messages": [asked[0], {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
    ]
    report, records = take("messages", tmp_path, rows)
    (prompt,) = records.prompts.values()
    assert [turn.role for turn in prompt.turns] == ["user", "assistant", "tool"]
    assert [d.text for d in records.demonstrations.values()] == ["It is cool."]
    assert report.reasons == ["line 2: a message that calls a tool: only its text could be kept, and not the call"]


INDENTED = "    def area(r):\n        return 3 * r * r"


@pytest.mark.parametrize(
    ("format", "row"),
    [
        ("alpaca", {"instruction": f"\n{INDENTED}\n", "output": f"\n \n{INDENTED} \n"}),
        ("messages", {"messages": [{"role": "user", "content": INDENTED}, {"role": "assistant", "content": f"\n{INDENTED}"}]}),
        ("oasst", tree(message("prompter", INDENTED, message("assistant", INDENTED)))),
        ("alpaca", {"prompt": f"{INDENTED}\n", "response": INDENTED}),
    ],
)
def test_code_keeps_its_indentation(tmp_path: Path, format: str, row: dict[str, Any]) -> None:
    _, records = take(format, tmp_path, [row])
    assert [p.text for p in records.prompts.values()] == [INDENTED + "\n"]
    assert [d.text for d in records.demonstrations.values()] == [INDENTED]


def test_code_in_pairs_and_conversations_keeps_its_indentation(tmp_path: Path) -> None:
    before = f"\n\nHuman: Go on:\n\nAssistant: Where?\n\nHuman:{INDENTED}\n\nAssistant:"
    take("hh-rlhf", tmp_path, [{"chosen": f"{before}{INDENTED}", "rejected": f"{before} No."}])
    lists = {
        "prompt": [{"role": "user", "content": INDENTED}],
        "chosen": [{"role": "assistant", "content": f"{INDENTED}\n"}],
        "rejected": [{"role": "assistant", "content": INDENTED.strip()}],
    }
    _, records = take("trl-preference", tmp_path, [lists])
    assert [p.turns[-1].text for p in records.prompts.values()] == [INDENTED, f"{INDENTED}\n"]
    assert [pair[1:] for pair in pairs(records)] == [(INDENTED, INDENTED.strip()), (INDENTED, "No.")]


# ---------------------------------------------------------------------------------------------------- trl-preference


def test_trl_pairs_of_every_type(tmp_path: Path) -> None:
    def user(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": text}]

    def assistant(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    # The first four are the examples of TRL's "Dataset formats and types" page.
    rows = [
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        {"prompt": user("What color is the sky?"), "chosen": assistant("It is blue."), "rejected": assistant("It is green.")},
        {
            "chosen": user("What color is the sea?") + assistant("It is blue."),
            "rejected": user("What color is the sea?") + assistant("It is green."),
        },
        {"chosen": "The cat sat on blankets", "rejected": "The cat sat on blue"},
        {"chosen": "\n\nHuman: Q\n\nAssistant: A B", "rejected": "\n\nHuman: Q\n\nAssistant: A C"},
    ]
    bad = [
        {"prompt": "x", "chosen": " y", "rejected": " y"},
        {"prompt": " ", "chosen": "a", "rejected": "b"},
        {"chosen": "abc", "rejected": "abd"},
        {"prompt": "x", "chosen": assistant("y"), "rejected": "z"},
        {"prompt": "x", "chosen": "y"},
        {"prompt": user("x"), "chosen": user("y"), "rejected": assistant("z")},
        {"chosen": user("x") + assistant("y"), "rejected": user("X") + assistant("y")},
    ]
    report, records = take("trl-preference", tmp_path, rows + bad)
    assert pairs(records) == sorted(
        [
            ("The sky is", " blue.", " green."),
            ("What color is the sky?\n", "It is blue.", "It is green."),
            ("What color is the sea?\n", "It is blue.", "It is green."),
            ("The cat sat on", " blankets", " blue"),  # TRL itself would cut inside the word: "The cat sat on bl"
            ("Q\n", "A B", "A C"),
        ]
    )
    assert (report.accepted, report.merged, report.rejected) == (5, 1, len(bad))


# ---------------------------------------------------------------------------------------------------- keys

PAIR = {"chosen": "It is 42.", "rejected": "It is 41."}


@pytest.mark.parametrize(
    ("format", "row", "turns"),
    [
        (
            "trl-preference",
            {"system": "Be brief.", "question": "6 x 7?", **PAIR},
            [("system", "Be brief."), ("user", "6 x 7?")],
        ),
        ("trl-preference", {"instruction": "Add.", "input": "6, 7", **PAIR}, [("user", "Add.\n\n6, 7\n")]),
        (
            "trl-preference",
            {"prompt": "6 x 7?", "history": [["Hi", "Hello"]], **PAIR},
            [("user", "Hi"), ("assistant", "Hello"), ("user", "6 x 7?")],
        ),
        (
            "alpaca",
            {"instruction": "Go on.", "history": [["Count.", "1, 2"]], "output": "3"},
            [("user", "Count."), ("assistant", "1, 2"), ("user", "Go on.")],
        ),
        ("alpaca", {"system": "Be kind.", "prompt": "Hi", "response": "Hello"}, [("system", "Be kind."), ("user", "Hi")]),
        ("alpaca", {"question": "6 x 7?", "context": "Base 10.", "response": "42"}, [("user", "6 x 7?\n\nBase 10.\n")]),
        ("dolly", {"instruction": "Which?", "context": "a b", "response": "a"}, [("user", "Which?\n\na b\n")]),
        (
            "messages",
            {"system": "Be brief.", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]},
            [("system", "Be brief."), ("user", "Hi")],
        ),
        (
            "hh-rlhf",
            {"system": "Be kind.", "chosen": "Human: Q\n\nAssistant: A", "rejected": "Human: Q\n\nAssistant: B"},
            [("system", "Be kind."), ("user", "Q")],
        ),
    ],
)
def test_keys_that_change_the_meaning_become_turns(tmp_path: Path, format: str, row: Any, turns: list[Any]) -> None:
    _, records = take(format, tmp_path, [row])
    assert [prompt.turns for prompt in records.prompts.values()] == [tuple(turns)]


GOOD = {
    "hh-rlhf": {"chosen": "Human: Q\n\nAssistant: A", "rejected": "Human: Q\n\nAssistant: B"},
    "trl-preference": {"prompt": "Q", **PAIR},
    "alpaca": {"instruction": "Q", "output": "A"},
    "dolly": {"instruction": "Q", "context": "", "response": "A", "category": "open_qa"},
    "messages": {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
}


@pytest.mark.parametrize("format", GOOD)
def test_other_keys_that_change_the_meaning_are_refused_and_the_rest_is_counted(tmp_path: Path, format: str) -> None:
    good = GOOD[format]
    wrong = [{**good, key: "x"} for key in ("tools", "passage", "chatContext", "previous_turns", "image", "dialogue_so_far")]
    fine = {"margin": 0.5, "prompt_id": "a", "question_id": 3, "created_at": "today", "tools": [], "systemPromptHash": "f"}
    report, _ = take(format, tmp_path, [{**good, **fine}, *wrong])
    assert (report.accepted, report.rejected) == (1, len(wrong))
    assert report.notes == {"times the key 'margin' was not used": 1}
    assert report.reasons[0] == "line 2: the key 'tools' may change what the prompt means, and this format does not read it"


def test_an_answer_that_was_judged_bad_is_no_demonstration(tmp_path: Path) -> None:
    rows = [{"prompt": "Q", "completion": "good", "label": True}, {"prompt": "Q", "completion": "bad", "label": False}]
    report, records = take("alpaca", tmp_path, rows)
    assert [d.text for d in records.demonstrations.values()] == ["good"]
    assert "judged bad" in report.reasons[0]


@pytest.mark.parametrize("before", [[], [{"role": "system", "content": "Be brief."}]])
@pytest.mark.parametrize("prompt", ["Q", [{"role": "user", "content": "Q "}]])
def test_lists_that_repeat_the_prompt_do_not_double_it(tmp_path: Path, prompt: Any, before: list[dict[str, str]]) -> None:
    def answered(text: str) -> list[dict[str, str]]:
        return [*before, {"role": "user", "content": "Q"}, {"role": "assistant", "content": text}]

    row = {"prompt": prompt, "chosen": answered("A"), "rejected": answered("B"), "messages": answered("A")}
    report, records = take("trl-preference", tmp_path, [row])
    (stored,) = records.prompts.values()
    assert [(turn.role, turn.text.strip()) for turn in stored.turns] == [
        *[("system", "Be brief.")][: len(before)],
        ("user", "Q"),
    ]
    assert [pair[1:] for pair in pairs(records)] == [("A", "B")]
    assert not report.notes


# ---------------------------------------------------------------------------------------------------- heedful


OWN = [
    {"kind": "ranking", "id": "k", "prompt_id": "p", "response_ids": ["a", "b"], "ranks": [1, 1], "labeler": "anna"},
    {"id": "g", "prompt_id": "p", "response_id": "a", "labeler": "anna", "overall": 5, "flags": {"fails_task": True}},
    {"id": "a", "prompt_id": "p", "text": "x"},
    {"kind": "response", "id": "b", "prompt_id": "p", "text": "y"},
    {"id": "d", "prompt_id": "p", "text": "z", "labeler": "anna"},
    {"id": "p", "text": "Q\n", "split": "valid", "source": "customer"},
]


def test_own_records_of_every_kind_in_any_order(tmp_path: Path) -> None:
    report, records = take("heedful", tmp_path, OWN)
    assert report.added == {"prompt": 1, "response": 2, "demonstration": 1, "ranking": 1, "rating": 1}
    assert records.prompts == {"p": Prompt(id="p", turns=turns_of("Q\n"), split="valid", source="customer")}
    assert records.rankings["k"].ranks == (1, 1)
    assert records.ratings["g"].flags == {"fails_task": True}


def test_filled_in_tasks_are_rankings(tmp_path: Path) -> None:
    take("heedful", tmp_path, OWN[2:])
    task = {"kind": "ranking", "prompt_id": "p", "prompt": "Q\n", "response_ids": ["a", "b"], "responses": ["x", "y"]}
    rows = [
        {**task, "ranks": [2, 1], "labeler": "bea"},
        {**task, "ranks": [1, 2]},
        {**task, "ranks": None, "labeler": "bea"},
        {**task, "ranks": [1, None]},
        {**task, "ranks": []},
        {**task, "responses": ["y", "x"], "ranks": [1, 2]},
        {**task, "prompt": "another", "ranks": [1, 2]},
        {**task, "responses": ["x"], "ranks": [1, 2]},
        {**task, "response_ids": ["a", "zz"], "ranks": [1, 2]},
        {**task, "ranks": [1, 2, 3]},
    ]
    report, records = take("heedful", tmp_path, rows, labeler="cleo")
    assert {(k.labeler, k.ranks) for k in records.rankings.values()} == {("bea", (2, 1)), ("cleo", (1, 2))}
    assert report.skipped == {"a ranking task that is not filled in": 3}
    assert report.rejected == 5
    assert "another text for 'a'" in report.reasons[0]
    assert "another text for 'p'" in report.reasons[1]
    again, _ = take("heedful", tmp_path, rows, labeler="cleo")
    assert (again.accepted, again.merged) == (0, 2)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"kind": "rankng", "id": "k"}, "did you mean ranking?"),
        ({"id": "k"}, "neither 'kind' nor the keys of a record: id"),
        ({"kind": "prompt", "id": "n", "text": " "}, "text that is not empty"),
        ({"kind": "prompt", "id": "n", "txt": "x"}, "did you mean 'text' by 'txt'?"),
        ({"kind": "prompt", "id": "n", "text": 3}, "'text'"),
        ({"kind": "prompt", "id": "p", "text": "another text"}, "the id 'p' is taken"),
        ({"id": "a", "prompt_id": "p", "text": "changed"}, "labels are never overwritten"),
        ({"id": "n", "prompt_id": "none", "text": "x"}, "names the prompt 'none', which is not there"),
        ({**OWN[0], "id": "n", "response_ids": ["a", "zz"]}, "names the response 'zz', which is not there"),
        ({**OWN[1], "id": "n", "overall": 9}, "overall from 1 to 7"),
        ({"kind": "prompt", "id": "n", "text": "half \ud83d"}, "surrogate"),
        ({"kind": "response", "id": "n", "prompt_id": "p", "text": "a\0b"}, "a NUL character"),
        ({"id": "n", "turns": [{"role": "user", "text": "a\0b"}]}, "a NUL character"),
        ({"id": "n" * 201, "text": "x"}, "its id has 201 characters, more than 200"),
        ({"id": "", "text": "x"}, "its id is empty"),
        ({"id": "n\0", "text": "x"}, "its id: a NUL character"),
        ({"id": "n", "text": "x", "user": "u" * 201}, "its owner has 201 characters"),
        ({"id": "n", "text": "x", "language": "a long name of a language"}, "its language has"),
        ({"id": "n", "text": "x", "metadata": {"a": [{"b": "\ud800"}]}}, "its metadata: half of a surrogate"),
        ({"id": "n", "text": "x", "metadata": {"\0": 1}}, "its metadata: a NUL character"),
        ({"id": "n", "text": "x", "metadata": {"a": "x" * 200_001}}, "a text of 200,001 characters"),
        ({"id": "n", "prompt_id": "p", "text": "x", "model": "\0"}, "its model: a NUL character"),
        ({**OWN[0], "id": "n", "ranks": [1, 2**31]}, "a rank above 2,147,483,647"),
    ],
)
def test_an_own_row_that_does_not_fit_is_rejected_and_changes_nothing(tmp_path: Path, row: Any, reason: str) -> None:
    _, before = take("heedful", tmp_path, OWN)
    report, after = take("heedful", tmp_path, [*OWN, row])
    assert report.rejected == 1
    assert reason in report.reasons[0]
    assert after == before


def test_labels_of_a_merged_prompt_follow_it(tmp_path: Path) -> None:
    take("heedful", tmp_path, [{"id": "p", "text": "Q\n"}])
    rows = [{"id": "other", "text": "Q\n"}, {"id": "a", "prompt_id": "other", "text": "x"}]
    report, records = take("heedful", tmp_path, rows)
    assert list(records.prompts) == ["p"]
    assert records.responses["a"] == Response(id="a", prompt_id="p", text="x")
    assert (report.accepted, report.merged, report.prompts_merged) == (1, 1, 1)


def test_labels_of_a_prompt_that_is_there_stay_with_it_whatever_others_say_the_same(tmp_path: Path) -> None:
    """As in the miniature, two of whose users may ask the same thing; its own labels come back."""
    Records.of([Prompt(id="first", turns=turns_of("Q\n")), Prompt(id="second", turns=turns_of("Q\n"))]).save(tmp_path / "data")
    rows = [{"id": "second", "text": "Q\n"}, {"id": "a", "prompt_id": "second", "text": "x"}]
    report, records = take("heedful", tmp_path, rows)
    assert records.responses["a"].prompt_id == "second"
    assert (report.accepted, report.merged, report.prompts_merged) == (1, 1, 1)


# ---------------------------------------------------------------------------------------------------- splits


def instructions(num: int) -> list[dict[str, str]]:
    return [{"instruction": f"Task {n}.", "output": "x"} for n in range(num)]


def test_splits_have_their_shares_and_come_from_the_seed_alone(tmp_path: Path) -> None:
    report, records = take("alpaca", tmp_path, instructions(2000))
    # A binomial with n = 2000: 4 standard deviations are 72 (p = 0.8) and 54 (p = 0.1).
    assert abs(report.splits["train"] - 1600) < 72
    assert abs(report.splits["valid"] - 200) < 54
    assert sum(report.splits.values()) == 2000
    backwards, other = tmp_path / "backwards", tmp_path / "other"
    _, same = take("alpaca", backwards, reversed(instructions(2000)))
    assert same.prompts == records.prompts
    _, different = take("alpaca", other, instructions(2000), seed=1)
    assert different.prompts != records.prompts


def test_one_conversation_stays_in_one_split_over_formats_imports_and_seeds(tmp_path: Path) -> None:
    take("alpaca", tmp_path, instructions(50), split_shares=(0.4, 0.3, 0.3))
    longer = [
        {
            "messages": [
                {"role": "user", "content": f"Task {n}."},
                {"role": "assistant", "content": "x"},
                {"role": "user", "content": "y"},
            ]
        }
        for n in range(50)
    ]
    for chat in longer:
        chat["messages"].append({"role": "assistant", "content": "z"})
    _, records = take("messages", tmp_path, longer, split_shares=(0.0, 0.5, 0.5), seed=5)
    by_task: dict[str, set[str]] = {}
    for prompt in records.prompts.values():
        task = prompt.text.removeprefix("Human: ").split("\n")[0]
        by_task.setdefault(task, set()).add(prompt.split)
    assert len(records.prompts) == 100
    assert len(by_task) == 50
    assert all(len(splits) == 1 for splits in by_task.values())


def test_all_in_one_split(tmp_path: Path) -> None:
    report, _ = take("alpaca", tmp_path, instructions(100), split_shares=(0, 0, 1))
    assert report.splits == {"test": 100}


@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.2), (1.2, -0.1, -0.1), (0.5, 0.5)])
def test_shares_that_are_none_are_refused(tmp_path: Path, shares: Any) -> None:
    with pytest.raises(ConfigError, match="shares"):
        take("alpaca", tmp_path, instructions(1), split_shares=shares)


def test_prompts_of_one_user_are_said_to_be_in_one_split_and_can_be_split_by_prompt(tmp_path: Path) -> None:
    rows = [{**row, "user": "mia"} for row in instructions(120)]
    report, records = take("alpaca", tmp_path, rows)
    (split,) = report.splits
    assert f"all 120 prompts belong to one user, so all are in {split}" in str(report)
    assert "--split-by prompt" in str(report)
    (tmp_path / "other").mkdir()
    report, records = take("alpaca", tmp_path / "other", rows, split_by="prompt")
    assert set(report.splits) == {"train", "valid", "test"}
    assert {p.user for p in records.prompts.values()} == {"mia"}
    assert report.one_split is None
    again, _ = take("alpaca", tmp_path / "other", rows, split_by="prompt")
    assert again.merged == 120


def test_a_few_users_who_all_land_in_train_give_the_warning_too(tmp_path: Path) -> None:
    rows = [{"instruction": f"Q{n}", "output": "x", "user": user} for n, user in enumerate("aba")]
    report, _ = take("alpaca", tmp_path, rows, split_shares=(1, 0, 0))
    assert "all 3 prompts belong to 2 users who are in train: there is nothing to evaluate on" in str(report)
    report, _ = take("alpaca", tmp_path, [{"instruction": "Q", "output": "x", "user": "c"}], split_shares=(0, 0, 1))
    assert report.one_split is None


@pytest.mark.parametrize("users", [[None] * 3, ["a"], ["a", None, "a"]])
def test_other_projects_are_not_warned_of_one_user(tmp_path: Path, users: list[str | None]) -> None:
    rows = [{"instruction": f"Q{n}", "output": "x", "user": user} for n, user in enumerate(users)]
    report, _ = take("alpaca", tmp_path, rows, split_shares=(1, 0, 0))
    assert report.one_split is None


# ---------------------------------------------------------------------------------------------------- the whole file


def test_importing_twice_adds_nothing(tmp_path: Path) -> None:
    rows = [*instructions(5), {"instruction": "no answer"}]
    first, before = take("alpaca", tmp_path, rows)
    contents = {path: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    second, after = take("alpaca", tmp_path, rows, seed=9)
    assert (first.accepted, first.merged) == (5, 0)
    assert (second.accepted, second.merged, second.rejected) == (0, 5, 1)
    assert after == before
    assert {path: path.read_bytes() for path in (tmp_path / "data").iterdir()} == contents


def test_the_same_prompt_is_one_prompt_with_all_its_answers(tmp_path: Path) -> None:
    rows = [{"instruction": "Q", "output": "a"}, {"instruction": "Q", "output": "b"}, {"instruction": "Q", "output": "a"}]
    report, records = take("alpaca", tmp_path, rows)
    assert (len(records.prompts), len(records.demonstrations)) == (1, 2)
    assert (report.accepted, report.merged, report.prompts_merged) == (2, 1, 2)


def test_bad_rows_are_kept_aside_with_file_line_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(
        b'{"instruction": "a", "output": "b"}\n\n{"instruction": "a"}\n{"instruction": \n\xff\n'
        b'{"instruction": "c \\ud83d", "output": "d"}\n{"instruction": "e", "output": NaN}\n{"instruction": "f", "x": 1e400}\n'
    )
    report = import_file("alpaca", path, tmp_path / "data")
    assert (report.read, report.accepted, report.rejected) == (7, 1, 6)
    kept = [row for _, row in read_jsonl(report.rejected_file)]
    assert Path(report.rejected_file) == tmp_path / "data" / "rejected.jsonl"
    assert [row["line"] for row in kept] == [3, 4, 5, 6, 7, 8]
    assert {row["file"] for row in kept} == {str(path)}
    assert all(row["reason"] for row in kept)
    assert kept[0]["row"] == {"instruction": "a"}
    assert kept[1]["row"] == '{"instruction":'
    assert kept[3]["row"]["instruction"] == "c \ud83d"
    again = import_file("alpaca", path, tmp_path / "data")
    assert again.rejected == 6
    assert [row for _, row in read_jsonl(report.rejected_file)] == kept
    other = tmp_path / "other.jsonl"
    other.write_bytes(path.read_bytes())
    import_file("alpaca", other, tmp_path / "data")
    assert len(list(read_jsonl(report.rejected_file))) == 12


def test_a_row_that_fails_half_way_adds_nothing_of_itself(tmp_path: Path) -> None:
    # The row's prompt is new, but its demonstration's id is that of another record.
    (tmp_path / "elsewhere").mkdir()
    _, elsewhere = take("alpaca", tmp_path / "elsewhere", [{"instruction": "B", "output": "y"}])
    (demonstration,) = elsewhere.demonstrations.values()
    (id,) = elsewhere.demonstrations
    _, before = take("heedful", tmp_path, [{"id": "p", "text": "A"}, {"id": id, "prompt_id": "p", "text": "x", "labeler": "l"}])
    report, after = take("alpaca", tmp_path, [{"instruction": "B", "output": "y"}, {"instruction": "C", "output": "z"}])
    assert report.reasons == [
        f"line 1: the id {id!r} is taken by a demonstration with other content: labels are never overwritten"
    ]
    assert (len(after.prompts), len(after.demonstrations)) == (2, 2)
    assert after.demonstrations[id] == before.demonstrations[id] != demonstration


def test_the_summary_says_what_became_of_the_rows(tmp_path: Path) -> None:
    rows = [*instructions(7), *instructions(2), *[{"instruction": f"bad {n}"} for n in range(6)]]
    report, _ = take("alpaca", tmp_path, rows)
    summary = str(report)
    assert summary == report.summary()
    for words in ("rows read         15", "accepted           7", "merged             2", "rejected           6"):
        assert words in summary
    assert "line 10: no key 'output'" in summary
    assert "and 1 more" in summary
    assert "7 prompts, 7 demonstrations" in summary
    assert "2 times a prompt was there already" in summary


@pytest.mark.parametrize(
    ("format", "row", "fits"),
    [
        ("oasst", {"instruction": "a", "output": "b"}, "alpaca"),
        ("alpaca", {"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: B"}, "hh-rlhf"),
        ("alpaca", {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "messages"),
        ("messages", {"prompt": "a", "chosen": "b", "rejected": "c"}, "trl-preference"),
        ("hh-rlhf", tree(message("prompter", "a", message("assistant", "b"))), "oasst"),
        ("trl-preference", OWN[5], "heedful"),
        ("heedful", {"prompt": "a", "response": "b"}, "alpaca"),
    ],
)
def test_a_file_of_another_format_names_the_one_that_fits(tmp_path: Path, format: str, row: Any, fits: str) -> None:
    with pytest.raises(DataError) as caught:
        take(format, tmp_path, [row] * 3)
    assert caught.value.next_step == f"it looks like the format {fits}: import it as that"
    assert "{" in str(caught.value.expected)
    for key in row:
        assert key in str(caught.value.got)
    assert not list((tmp_path / "data").glob("*.jsonl"))


@pytest.mark.parametrize("text", ["", "\n\n", "[]", "no JSON", '["a"]\n["b"]\n', '{"a":\n 1}', "\x89PNG"])
def test_a_file_that_is_nothing_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "in.jsonl").write_text(text)
    with pytest.raises(DataError) as caught:
        import_file("alpaca", tmp_path / "in.jsonl", tmp_path / "data")
    assert caught.value.expected


def test_no_file_or_no_such_format(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        import_file("alpaca", tmp_path / "none.jsonl", tmp_path / "data")
    with pytest.raises(ConfigError, match="did you mean 'hh-rlhf'"):
        import_file("hh-rlfh", put(tmp_path, [1]), tmp_path / "data")


def test_a_gzip_file_is_read_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(gzip.compress(b'{"instruction": "a", "output": "b"}\n'))
    assert import_file("alpaca", path, tmp_path / "data").accepted == 1


@pytest.mark.parametrize("renames", range(6))
def test_a_crash_while_importing_leaves_records_that_load_and_a_second_import_completes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    take("alpaca", tmp_path, instructions(3))
    rows = [{"instruction": f"New {n}", "output": "x", "chosen": "x", "rejected": "y"} for n in range(3)] + [{"bad": 1}]
    rename, done = os.replace, []

    def crash(source: Any, target: Any) -> None:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(target)
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            take("alpaca", tmp_path, rows)
    Records.load(tmp_path / "data")
    _, records = take("alpaca", tmp_path, rows)
    assert (len(records.prompts), len(records.demonstrations), len(records.rankings)) == (6, 6, 3)
    assert len(list(read_jsonl(tmp_path / "data" / "rejected.jsonl"))) == 1
    assert not list((tmp_path / "data").glob("*.tmp"))


@pytest.mark.parametrize("labeler", ["", " ", "x" * 201, "a\0b", "half \ud83d"])
def test_a_labelers_name_that_nothing_can_hold(tmp_path: Path, labeler: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"instruction": "a", "output": "b"}\n')
    with pytest.raises(ConfigError, match="not a labeler's name"):
        import_file("alpaca", file, tmp_path / "data", labeler=labeler)
    assert not (tmp_path / "data").exists()
