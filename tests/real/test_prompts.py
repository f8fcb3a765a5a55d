"""Real people's prompts through the prompt pipeline: the rules of SPEC 1 hold, as told by other code than the pipeline's."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.real.test_import import pytestmark, real  # noqa: F401  (pytestmark marks this file too)

from heedful.project.data_folder import Records
from heedful.project.files import read_jsonl
from heedful.project.owners import OWNERS
from heedful.prompts.intake import IntakeReport, import_prompts
from heedful.records import Prompt

CAP = 200
PREFIX = 256
WORDS = 1_024
OWNER_KEY = "00" * 31 + "18"
"""The splits are the same on every machine, and personal data turn up in all of them."""
PERSONAL = (
    re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}"),
    re.compile(r"\((?!555)[2-9]\d\d\) ?[2-9]\d\d-\d{4}"),  # no area has the code 555: nobody's number
    re.compile(r"\b\d{3}-\d{2}-\d{4}\b"),
    re.compile(r"\b(?:\d{4}[ -]?){3}\d{4}\b"),
)
"""Cruder than the pipeline's own patterns, and other ones."""


def uneven(number: int) -> str:
    """One of about 300 owners: the first of them write far more than the others, as users do (Table 8)."""
    return f"org-{int(300 ** (number * 0.618034 % 1))}"


def open_assistant() -> Iterator[dict[str, Any]]:
    """Every turn of a person's with the conversation before it; a tree is one owner's."""

    def conversations(node: dict[str, Any], before: list[dict[str, str]], owner: str) -> Iterator[dict[str, Any]]:
        role = "user" if node["role"] == "prompter" else "assistant"
        turns = [*before, {"role": role, "content": node["text"]}]
        if role == "user":
            yield {"messages": turns, "owner": owner}
        for reply in node["replies"]:
            yield from conversations(reply, turns, owner)

    for line in real("oasst_en100/en_100_tree.jsonl").read_text().splitlines():
        tree = json.loads(line)
        yield from conversations(tree["prompt"], [], tree["message_tree_id"])


def hh() -> Iterator[dict[str, Any]]:
    """What people said to the model, up to their last turn."""
    with gzip.open(real("hh_harmless/pairs.jsonl.gz"), "rt", encoding="utf-8") as file:
        for number, line in enumerate(file):
            said = re.split(r"\n\n(Human|Assistant): ?", json.loads(line)["chosen"])[1:]
            roles = {"Human": "user", "Assistant": "assistant"}
            turns = [{"role": roles[who], "content": text} for who, text in zip(said[::2], said[1::2], strict=True)]
            yield {"messages": turns, "owner": uneven(number)}


def dolly() -> Iterator[dict[str, Any]]:
    """Instructions without the frame that they are kept in; four organisations' only."""
    for number, (_, row) in enumerate(read_jsonl(real("dolly_hhrlhf_small/dolly_hhrlhf_train_small.jsonl"))):
        instruction = row["prompt"].split("### Instruction:\n", 1)[1].removesuffix("\n\n### Response:\n")
        yield {"prompt": instruction, "organization": f"team-{number % 4}"}


def lottery() -> Iterator[dict[str, Any]]:
    """Prompts that come in later, of owners who are there already."""
    for number, (_, text) in enumerate(read_jsonl(real("oasst_en100/prompt_lottery_en_250_text.jsonl"))):
        yield {"prompt": text, "user": uneven(7 * number)}


SETS: dict[str, tuple[str, Callable[[], Iterable[dict[str, Any]]]]] = {
    "open_assistant": ("chat", open_assistant),
    "hh": ("chat", hh),
    "dolly": ("prompts", dolly),
    "lottery": ("prompts", lottery),
}


def begin(folder: Path) -> Path:
    folder.mkdir()
    (folder / OWNERS).write_text(json.dumps({"key": OWNER_KEY, "shares": [0.8, 0.1, 0.1]}))
    return folder


def take_in(name: str, rows: Iterable[dict[str, Any]], data: Path) -> IntakeReport:
    file = data.parent / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return import_prompts(SETS[name][0], file, data)


def stored(data: Path) -> dict[str, Prompt]:
    return dict(Records.load(data).prompts)


def asked(row: dict[str, Any]) -> tuple[str, str]:
    """The owner, and the words of the user's last turn."""
    turns = [turn["content"] for turn in row.get("messages", ()) if turn["role"] == "user"] or [row["prompt"]]
    return next(row[key] for key in ("organization", "owner", "user") if key in row), " ".join(turns[-1].split())


def last_turn(prompt: Prompt) -> tuple[str | None, str]:
    text = (
        prompt.text.removesuffix("\n\nAssistant:").rpartition("Human: ")[2] if "\n\nAssistant:" in prompt.text else prompt.text
    )
    return prompt.user, " ".join(text.split())


def beginning(text: str) -> str:
    return " ".join(text.lower().split())[:PREFIX]


@pytest.fixture(scope="module")
def taken_in(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, IntakeReport]]:
    """All sets, one after the other, in one project's data folder."""
    data = begin(tmp_path_factory.mktemp("prompts") / "data")
    return data, {name: take_in(name, rows(), data) for name, (_, rows) in SETS.items()}


def test_what_came_of_every_row(taken_in: tuple[Path, dict[str, IntakeReport]]) -> None:
    data, reports = taken_in
    prompts = stored(data)
    for name, report in reports.items():
        print(f"\n{name}: read {report.read}, added {report.added} {dict(report.splits)}, owners {report.owners},")
        print(f"  flagged {report.flagged}, left out {dict(report.left_out)}")
    print(f"languages: {Counter(prompt.language for prompt in prompts.values()).most_common()}")
    assert [reports[name].read for name in SETS] == [480, 1800, 1000, 250]
    categories = sum((Counter(report.left_out) for report in reports.values()), Counter())
    assert set(categories) == {"too long", "personal data in train", "duplicate", "owner's cap"}, "a rule had nothing to do"
    assert sum(report.flagged for report in reports.values()) > 0

    # Each row is a prompt now, or has its reason; none both, none neither.
    reasons: dict[tuple[str, int], list[str]] = {}
    for _, row in read_jsonl(data / "rejected.jsonl"):
        reasons.setdefault((Path(row["file"]).stem, row["line"]), []).append(row["reason"])
    assert all(len(given) == 1 for given in reasons.values())
    kept: Counter[tuple[str | None, str]] = Counter()
    for name, (_, rows) in SETS.items():
        for line, row in enumerate(rows(), start=1):
            if (name, line) not in reasons:
                kept[asked(row)] += 1
        report = reports[name]
        assert report.read == report.added + report.already_there + sum(report.left_out.values())
        assert sum(found == name for found, _ in reasons) == sum(report.left_out.values())
    assert kept == Counter(map(last_turn, prompts.values()))

    # A duplicate names the one that is there instead.
    texts = {name: [asked(row)[1] for row in rows()] for name, (_, rows) in SETS.items()}
    for (name, line), (reason,) in reasons.items():
        if reason.startswith("duplicate of "):
            id = reason.removeprefix("duplicate of ").partition(":")[0]
            if len(prompts[id].text) < PREFIX:
                assert texts[name][line - 1].lower() == last_turn(prompts[id])[1].lower()


def test_rules_of_cleaning_hold(taken_in: tuple[Path, dict[str, IntakeReport]]) -> None:
    prompts = stored(taken_in[0]).values()
    assert max(len(prompt.text.split()) for prompt in prompts) <= WORDS
    assert max(Counter(prompt.user for prompt in prompts).values()) == CAP
    assert len({beginning(prompt.text) for prompt in prompts}) == len(prompts)
    for prompt in prompts:
        personal = any(pattern.search(prompt.text) for pattern in PERSONAL)
        if prompt.split == "train":
            assert not personal, prompt.text
            assert "needs_review" not in prompt.metadata
        elif personal:
            assert prompt.metadata["needs_review"] is True
    # They are all in English; a few words are too little to tell.
    languages = Counter(prompt.language for prompt in prompts)
    assert languages["en"] / len(prompts) > 0.95
    assert languages["en"] + languages["unknown"] >= len(prompts) - 3


def test_an_owner_stays_in_one_split(taken_in: tuple[Path, dict[str, IntakeReport]], tmp_path: Path) -> None:
    splits: dict[str | None, set[str]] = {}
    for prompt in stored(taken_in[0]).values():
        splits.setdefault(prompt.user, set()).add(prompt.split)
    assert all(len(each) == 1 for each in splits.values())
    assert {split for each in splits.values() for split in each} == {"train", "valid", "test"}

    # Whatever else is there, whatever came first, and with more rows of the same owners.
    data, before = begin(tmp_path / "data"), {}
    for name in reversed(SETS):
        take_in(name, SETS[name][1](), data)
        now = {prompt.id: (prompt.user, prompt.split) for prompt in stored(data).values()}
        assert now.items() >= before.items()
        assert all(splits[owner] == {split} for owner, split in now.values() if owner in splits)
        before = now


def test_again_and_in_another_order(taken_in: tuple[Path, dict[str, IntakeReport]], tmp_path: Path) -> None:
    data, reports = taken_in
    before = (data / "prompts.jsonl").read_bytes()
    for name, (_, rows) in SETS.items():
        again = take_in(name, rows(), data)
        assert (again.added, again.already_there) == (0, reports[name].added)
    assert (data / "prompts.jsonl").read_bytes() == before

    turned = begin(tmp_path / "data")
    for name, (_, rows) in SETS.items():
        take_in(name, list(rows())[::-1], turned)
    assert stored(turned).keys() == stored(data).keys()
