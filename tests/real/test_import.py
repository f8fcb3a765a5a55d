"""Real human data through every importer; the numbers are counted from the files by other code than the importers'."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heedful.errors import DataError
from heedful.project.data_folder import Records
from heedful.project.exporting import comparisons, export_file
from heedful.project.files import read_jsonl
from heedful.project.importing import import_file

REAL = Path(os.environ.get("HEEDFUL_REAL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not REAL.is_dir(), reason=f"no real human data at {REAL}: set HEEDFUL_REAL_DATA to their folder"),
]


def real(name: str) -> Path:
    path = REAL / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def messages(root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield root
    for reply in root["replies"]:
        yield from messages(reply)


def test_open_assistant_trees(tmp_path: Path) -> None:
    path = real("oasst_en100/en_100_tree.jsonl")
    nodes = [node for line in path.read_text().splitlines() for node in messages(json.loads(line)["prompt"])]
    prompters = [node for node in nodes if node["role"] == "prompter"]
    ranked = [sorted(r["rank"] for r in p["replies"] if r.get("rank") is not None) for p in prompters]
    ks = [len(ranks) for ranks in ranked if len(ranks) >= 2]
    assert (len(nodes), len(prompters), len(ks), min(ks), max(ks)) == (1167, 480, 212, 2, 9)  # counted by hand once

    report = import_file("oasst", path, tmp_path)
    records = Records.load(tmp_path)
    assert (report.read, report.accepted, report.merged, report.rejected, dict(report.skipped)) == (100, 100, 0, 0, {})
    assert len(records.prompts) == 480
    assert len(records.responses) == 1167 - 480
    assert sorted(len(k.ranks) for k in records.rankings.values()) == sorted(ks)
    # In these trees no two siblings have one rank: every ranking is the whole order 1..K.
    assert all(sorted(k.ranks) == list(range(1, len(k.ranks) + 1)) for k in records.rankings.values())

    # The demonstration: the best-ranked reply that is no model's, or the only one.
    expected: list[str] = []
    for prompter in prompters:
        people = [
            r
            for r in prompter["replies"]
            if not r["synthetic"] and (r.get("rank") is not None or len(prompter["replies"]) == 1)
        ]
        if people:
            expected.append(min(people, key=lambda reply: reply.get("rank") or 0)["text"].strip())
    assert sorted(d.text.strip() for d in records.demonstrations.values()) == sorted(expected)

    # A tree is one conversation: one split.
    by_tree: dict[str, set[str]] = {}
    for prompt in records.prompts.values():
        by_tree.setdefault(prompt.metadata["message_tree_id"], set()).add(prompt.split)
    assert len(by_tree) == 100
    assert all(len(splits) == 1 for splits in by_tree.values())

    assert sum(node["synthetic"] for node in nodes if node["role"] == "assistant") == 17
    assert sum(r.model != "human" for r in records.responses.values()) == 17

    again = import_file("oasst", path, tmp_path)
    nested = import_file("oasst", real("oasst_en100/en_100_message.jsonl"), tmp_path)
    assert again.merged == nested.merged == 100
    assert Records.load(tmp_path) == records


def test_hh_pairs(tmp_path: Path) -> None:
    path = real("hh_harmless/pairs.jsonl.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    mark = "\n\nAssistant:"
    cut = [{key: text.rsplit(mark, 1) for key, text in row.items()} for row in rows]
    usable = [row for row in cut if row["chosen"][0] == row["rejected"][0]]
    assert (len(rows), len(usable)) == (1800, 1798)

    report = import_file("hh-rlhf", path, tmp_path)
    records = Records.load(tmp_path)
    assert (report.read, report.accepted, report.rejected) == (1800, 1798, 2)
    assert [row["line"] for _, row in read_jsonl(tmp_path / "rejected.jsonl")] == [1255, 1689]
    assert all("differ before" in reason for reason in report.reasons)
    assert len(records.prompts) == len({row["chosen"][0] for row in usable}) == 1796
    assert sum(not r.text for r in records.responses.values()) == 4  # an empty answer is an answer

    # Prompt and response together are the file's own text, word for word, but for space at the ends of turns.
    def words(text: str) -> list[str]:
        return text.split()

    got = {
        (
            tuple(words(records.prompts[k.prompt_id].text)),
            tuple(words(records.responses[b].text)),
            tuple(words(records.responses[w].text)),
        )
        for k in records.rankings.values()
        for b, w in comparisons(k)
    }
    for row in usable:
        prompt = row["chosen"][0].strip()
        prompt = prompt + mark if prompt.count("Human:") > 1 or mark in prompt else prompt.removeprefix("Human:")
        assert (tuple(words(prompt)), tuple(words(row["chosen"][1])), tuple(words(row["rejected"][1]))) in got

    export = export_file("trl-preference", tmp_path, tmp_path / "out.jsonl")
    assert (export.written, export.notes) == (1798, {})
    back = import_file("trl-preference", tmp_path / "out.jsonl", tmp_path / "back")
    assert (back.accepted, back.rejected) == (1798, 0)


def test_instructions_with_preferences(tmp_path: Path) -> None:
    path = real("llms_from_scratch/instruction-data-with-preference.json")
    rows = json.loads(path.read_text())
    prompts = {(row["instruction"].strip(), row["input"].strip()) for row in rows}
    same = sum(row["chosen"].strip() == row["rejected"].strip() for row in rows)
    assert (len(rows), len(prompts), same) == (1100, 1075, 6)

    report = import_file("alpaca", path, tmp_path)
    assert (report.read, report.accepted, report.prompts_merged) == (1100, 1100, 25)
    assert report.added == {"prompt": 1075, "demonstration": 1100, "response": 2 * 1094, "ranking": 1094}
    assert list(report.notes.values()) == [6]
    # The plain file holds the same 1,100 answers.
    assert import_file("alpaca", real("llms_from_scratch/instruction-data.json"), tmp_path).merged == 1100
    assert export_file("trl-sft", tmp_path, tmp_path / "sft.jsonl").written == 1100


def test_dolly_rows_are_alpacas_under_other_names(tmp_path: Path) -> None:
    path = real("dolly_hhrlhf_small/dolly_hhrlhf_train_small.jsonl")
    rows = [row for _, row in read_jsonl(path)]
    assert (len(rows), len({row["prompt"] for row in rows})) == (1000, 999)

    report = import_file("alpaca", path, tmp_path)
    records = Records.load(tmp_path)
    assert report.added == {"prompt": 999, "demonstration": 1000}
    assert not any("### " in prompt.text for prompt in records.prompts.values())
    assert {d.text for d in records.demonstrations.values()} == {row["response"].strip() for row in rows}


def test_a_real_file_under_the_wrong_name_is_recognised(tmp_path: Path) -> None:
    for wrong, name, right in [
        ("alpaca", "oasst_en100/en_100_tree.jsonl", "oasst"),
        ("messages", "dolly_hhrlhf_small/dolly_hhrlhf_train_small.jsonl", "alpaca"),
        ("oasst", "hh_harmless/pairs.jsonl.gz", "hh-rlhf"),
    ]:
        with pytest.raises(DataError, match=f"it looks like the format {right}"):
            import_file(wrong, real(name), tmp_path)
    with pytest.raises(DataError, match="no row of"):
        import_file("oasst", real("oasst_en100/en_100_text.jsonl"), tmp_path)


def test_no_real_prompt_is_in_two_splits(tmp_path: Path) -> None:
    for format, name in [
        ("hh-rlhf", "hh_harmless/pairs.jsonl.gz"),
        ("alpaca", "llms_from_scratch/instruction-data.json"),
        ("oasst", "oasst_en100/en_100_tree.jsonl"),
    ]:
        import_file(format, real(name), tmp_path)
    records = Records.load(tmp_path)
    by_opening: dict[str, set[str]] = {}
    for prompt in records.prompts.values():
        first = prompt.text.split("\n\nAssistant:")[0].removeprefix("Human: ").strip()
        by_opening.setdefault(first, set()).add(prompt.split)
    assert all(len(splits) == 1 for splits in by_opening.values())
    assert len({p.text for p in records.prompts.values()}) == len(records.prompts)
