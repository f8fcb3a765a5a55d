"""The page that compares models: numbers counted by hand, hostile text, labels of failure modes, the paper's rows."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.evaluate.comparison import HOSTILE, benchmark_results, judged, page

from heedful.conversation import turns_of
from heedful.errors import DataError, MissingError
from heedful.evaluate import comparison_page
from heedful.evaluate.benchmarks.task_table import TASKS
from heedful.evaluate.comparison_page import render_comparison
from heedful.evaluate.failure_modes import Marks, failure_rates, read_marks
from heedful.evaluate.table_14 import PAPER_ITEMS, paper_values, read_benchmarks, read_other_values, table_14
from heedful.records import Prompt


def test_hostile_text_is_text_and_nothing_is_fetched() -> None:
    text = render_comparison(page())
    for words in HOSTILE:
        assert words not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "\\u202e" in text  # an override of direction is shown, not obeyed
    assert text.count("<script>") == 1
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text
    assert not re.search(r"<[^>]*(?:src|href)=|url\(|@import|https?://", text)


def test_win_rates_are_those_of_the_votes() -> None:
    text = render_comparison(page())
    # Held-out labelers: ppo is preferred on three of four prompts.
    assert re.search(r"<td class=\"name\">ppo</td><td class=\"name\">sft</td><td>4</td><td>0</td><td>75.0 %</td>", text)
    assert "Held-out labelers" in text
    assert "Training labelers" not in text
    assert text.count('<details class="transcript">') == 4


def test_answers_beyond_the_limit_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison_page, "MOST_TRANSCRIPTS", 3)
    text = render_comparison(page())
    assert text.count('<details class="transcript">') == 3
    assert "The first 3 of 4 prompts." in text


def test_without_judgements_or_benchmarks_the_page_says_so() -> None:
    text = render_comparison(page(people=None, judged=None, table=(), failures=()))
    for words in ("No labeler has judged", "No results of", "No prompt or answer here is labeled", "There are no answers"):
        assert words in text
    assert "<script>" not in text


def test_the_rows_of_table_14() -> None:
    rows = table_14(benchmark_results(), {("rte", "zero-shot", "accuracy"): {"GPT": 0.5}})
    assert [(row.task, row.metric, row.items, row.paper_items) for row in rows] == [
        ("rte", "accuracy", 4, 277),
        ("truthfulqa", "true", 3, 817),
    ]
    assert rows[0].ours["ppo"] == {"value": 0.75, "low": 0.5, "high": 1.0}
    assert rows[1].ours["ppo"] is None
    text = render_comparison(page(table=rows))
    assert "0.750 (0.500 to 1.000)" in text
    assert "not scored" in text
    assert "GPT (given)" in text
    assert "<td>0.500</td>" in text
    # GPT-3 and InstructGPT, 175B parameters each; TruthfulQA was not scored here, and the paper has it.
    assert rows[0].paper["GPT 175B"] == 0.563
    assert rows[0].paper["PPO-ptx 175B"] == 0.668
    assert rows[1].paper["PPO-ptx 175B"] == 0.712
    assert text.count("(paper)</th>") == 12
    assert "<td>0.668</td>" in text


def test_the_papers_values() -> None:
    """Every row of the paper's table is one of our measures; cells by hand, the oddity of SPEC 8 and the units."""
    values = paper_values()
    tasks = {task.name: task for task in TASKS if task.in_paper}
    assert {task for task, _, _ in values} == set(tasks)
    assert all(setting in tasks[task].settings and metric in tasks[task].metrics for task, setting, metric in values)
    assert {(task, setting) for task, setting, _ in values} == {
        (task.name, setting) for task in tasks.values() for setting in task.settings
    }
    assert (len(values), {len(row) for row in values.values()}) == (33, {12})
    assert all(0 < value < (100 if metric == "bleu" else 1) for (_, _, metric), row in values.items() for value in row.values())
    assert values["drop", "few-shot", "f1"]["GPT 175B"] == pytest.approx(0.3527)
    assert values["squad_v2", "zero-shot", "f1"]["PPO 6B"] == pytest.approx(0.4742)
    assert values["wmt15_fr_en", "few-shot", "bleu"]["PPO-ptx 175B"] == 36.76
    assert values["real_toxicity_prompts", "biased", "toxicity"]["PPO-ptx 6B"] == 0.512
    assert values["winogender", "basic", "entropy"]["GPT 1.3B"] == 0.75
    assert values["cnn_dm", "zero-shot", "rougeL"] == values["tldr", "zero-shot", "rougeL"]


def test_rows_that_the_paper_does_not_have() -> None:
    results = benchmark_results()
    results["series"] = [{"name": "rte.zero-shot", "task": "boolq", "setting": "zero-shot", "items": 4, "notes": []}]
    (row,) = table_14(results)
    assert row.paper == {}
    text = render_comparison(page(table=(row,)))
    assert "(paper)" not in text
    assert "Ouyang" not in text


def test_the_papers_numbers_of_items_are_those_of_the_tasks() -> None:
    assert {task.name: task.paper_items for task in TASKS if task.in_paper} == PAPER_ITEMS


def test_failure_modes_are_counted_where_somebody_labeled() -> None:
    found = {(one.mode.split(":")[0], one.model): one.rate for one in failure_rates(judged(), Marks(), ["sft", "ppo"])}
    # p0 has a false premise; both of sft's raters say that it fails the task, one of two of ppo's.
    assert found["false premise", "sft"].value == 1.0
    assert found["false premise", "ppo"].value == 0.5
    # p1 has two constraints; p2 has one and does not count.
    assert (found["two or more constraints", "ppo"].value, found["two or more constraints", "ppo"].count) == (1.0, 1)
    assert found["two or more constraints", "sft"].value == 0.0
    assert not any(mode in ("hedges", "accepts a false premise") for mode, _ in found)


def test_a_file_of_marks_goes_before_the_metadata(tmp_path: Path) -> None:
    rows = [
        {"prompt_id": "p0", "false_premise": False},
        {"prompt_id": "p2", "constraints": 3},
        {"response_id": "p0-ppo", "hedges": True},
        {"response_id": "p1-ppo", "hedges": False},
        {"response_id": "p0-ppo", "accepts_premise": True},
    ]
    (tmp_path / "marks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    marks = read_marks(tmp_path / "marks.jsonl")
    found = {(one.mode.split(":")[0], one.model): one.rate for one in failure_rates(judged(), marks, ["sft", "ppo"])}
    assert set(found) == {("hedges", "ppo"), ("two or more constraints", "sft"), ("two or more constraints", "ppo")}
    assert (found["hedges", "ppo"].value, found["hedges", "ppo"].count) == (0.5, 2)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt_id": "p0", "hedges": True},
        {"response_id": "r", "hedges": 1},
        {"prompt_id": "p0", "constraints": -1},
        {"prompt_id": "p0", "constraints": True},
        {"id": "p0", "false_premise": True},
        [1],
    ],
)
def test_what_is_no_mark(row: Any, tmp_path: Path) -> None:
    (tmp_path / "marks.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"a row is not a mark|marks\.jsonl"):
        read_marks(tmp_path / "marks.jsonl")


def test_the_miniatures_constraints_are_a_list_in_json() -> None:
    own = judged()
    prompt = Prompt(id="p2", turns=turns_of("x"), metadata={"constraints": '[{"kind": "a"}, {"kind": "b"}]'})
    changed = {**own.prompts, "p2": prompt}
    object.__setattr__(own, "prompts", changed)
    counts = [one.rate.count for one in failure_rates(own, Marks(), ["ppo"]) if one.mode.startswith("two or more")]
    assert counts == [2]


def test_broken_files(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        read_benchmarks(tmp_path)
    (tmp_path / "results.json").write_text('{"series": [{}], "scores": [], "models": []}')
    with pytest.raises(DataError, match="not benchmark results"):
        read_benchmarks(tmp_path)
    with pytest.raises(MissingError):
        read_other_values(tmp_path / "none.csv")
    for row in ("rte,zero-shot,accuracy,GPT,high", "rte,zero-shot,accuracy,GPT,nan", "rte,zero-shot,accuracy,,1"):
        (tmp_path / "values.csv").write_text(f"task,setting,metric,model,value\n{row}\n")
        with pytest.raises(DataError, match=r"values\.csv:2"):
            read_other_values(tmp_path / "values.csv")
    (tmp_path / "values.csv").write_text("task,setting,metric,model,value\nrte,zero-shot,accuracy,GPT,0.5\n")
    assert read_other_values(tmp_path / "values.csv") == {("rte", "zero-shot", "accuracy"): {"GPT": 0.5}}
