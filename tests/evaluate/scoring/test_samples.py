"""Files of stored samples: column maps, rules for several references, rows that cannot be scored, time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.quick import takes_less_than

from heedful.errors import ConfigError, DataError, MissingError
from heedful.evaluate.scoring import RULES, SampleColumns, score_samples
from heedful.evaluate.scoring.choices import entropy_bits
from heedful.evaluate.scoring.drop import best_assignment, drop_scores
from heedful.evaluate.scoring.rouge import longest_common_subsequence


def jsonl(folder: Path, *rows: object) -> Path:
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def csv(folder: Path, content: str | bytes) -> Path:
    path = folder / "samples.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ---------------------------------------------------------------------------------------------------- rules


def test_squad_by_hand(tmp_path: Path) -> None:
    """The second response shares "eiffel tower" of its three words with the reference's two: F1 = 2 * 2/3 * 1 / (5/3)."""
    path = jsonl(
        tmp_path,
        {"response": "The Eiffel Tower.", "references": ["eiffel tower"]},
        {"response": "big eiffel tower", "references": ["Eiffel Tower", "tower"]},
        {"response": "", "references": []},
        {"response": "unanswerable", "references": []},
    )
    scores = score_samples(path, "squad_v2")
    assert scores.scores["exact"].tolist() == [1, 0, 1, 0]
    assert scores.scores["f1"].tolist() == pytest.approx([1, 0.8, 1, 0])
    assert score_samples(path, "squad_v2", no_answer=["unanswerable"]).scores["exact"].tolist() == [1, 0, 1, 1]


def test_the_rule_is_named_and_matters(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"response": "b", "references": ["a", "b"]})
    found = {rule: score_samples(path, "accuracy", rule=rule) for rule in RULES["accuracy"]}
    assert {rule: scores.means["accuracy"].value for rule, scores in found.items()} == {
        "max over alternatives": 1,
        "first": 0,
        "all parts required": 0,
    }
    assert all(f"references: {rule}" in scores.summary() and scores.rule == rule for rule, scores in found.items())
    with pytest.raises(ConfigError, match="max over alternatives, first"):
        score_samples(path, "bleu", rule="all parts required")
    with pytest.raises(ConfigError, match="no such metric"):
        score_samples(path, "blue")  # pyright: ignore[reportArgumentType]


def test_drop_parts_or_alternatives(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"response": ["Tom", "Ann"], "references": ["Ann", "Tom"]})
    assert score_samples(path, "drop").means["exact"].value == 0
    assert score_samples(path, "drop").means["f1"].value == 0.5
    assert score_samples(path, "drop", rule="all parts required").means["exact"].value == 1


def test_drop_reads_the_data_sets_own_answers(tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": []}
    path = jsonl(
        tmp_path,
        {"response": "12", "references": [nothing | {"number": "12.0"}]},
        {"response": "5 May 1999", "references": [nothing | {"date": {"day": "5", "month": "May", "year": "1999"}}]},
        {"response": ["b", "a"], "references": [nothing | {"spans": ["a", "b"]}]},
        {"response": "12", "references": [nothing]},
    )
    scores = score_samples(path, "drop")
    assert scores.scores["exact"].tolist() == [1, 1, 1]
    assert [(row.line, row.reason) for row in scores.unscored] == [(4, "no reference")]


def test_drop_by_hand() -> None:
    assert drop_scores(["7 yards"], ["8 yards"]) == (0, 0), "another number: no credit for the word"
    assert drop_scores(["yards"], ["long yards"]) == (0, 0.67)
    assert drop_scores(["a", "b", "c"], ["b"]) == (0, 0.33), "an article is an empty span"
    assert best_assignment([[1, 2], [2, 4]]) == [(0, 0), (1, 1)]
    assert best_assignment([[5, 1], [4, 0], [3, 2]]) == [(0, 0), (2, 1)]


def test_quac_by_hand(tmp_path: Path) -> None:
    """Left one out: [0.5 without the exact one, 1, 1] on average; the annotators agree on little in the last question."""
    path = jsonl(
        tmp_path,
        {"response": "red car", "references": ["red car", "red", "car"]},
        {"response": "no idea", "references": ["CANNOTANSWER", "red"]},
        {"response": "red", "references": ["red", "blue"]},
    )
    scores = score_samples(path, "quac", no_answer=["no idea"])
    left_out = (2 / 3 + 1 + 1) / 3
    assert scores.scores["unfiltered_f1"].tolist() == pytest.approx([left_out, 1, 0.5])
    assert scores.means["f1"].value == pytest.approx((left_out + 1) / 2)
    assert scores.means["f1"].count == 2
    assert scores.means["unfiltered_f1"].count == 3
    assert scores.means["heq"].value == 1


def test_entropy_and_choice(tmp_path: Path) -> None:
    assert entropy_bits([math.log(0.2)] * 4) == pytest.approx(2)
    assert entropy_bits([-1000.0, -1000.0]) == pytest.approx(1)
    assert entropy_bits([-0.1, -800.0]) == 0
    path = jsonl(tmp_path, {"logprobs": [-2, -1], "answer": 1}, {"logprobs": [-2, -1], "answer": 0})
    assert score_samples(path, "choice").scores["accuracy"].tolist() == [1, 0]
    share = math.e / (1 + math.e)
    expected = -(share * math.log2(share) + (1 - share) * math.log2(1 - share))
    assert score_samples(path, "entropy").means["entropy"].value == pytest.approx(expected)


def test_longest_common_subsequence() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        first, second = ([str(word) for word in generator.integers(4, size=int(generator.integers(0, 12)))] for _ in range(2))
        table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
        for i, a in enumerate(first):
            for j, b in enumerate(second):
                table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
        assert longest_common_subsequence(first, second) == table[-1, -1]


# ---------------------------------------------------------------------------------------------------- columns


def test_a_column_map(tmp_path: Path) -> None:
    path = csv(tmp_path, 'out,ref_1,ref_2\nParis,,Paris\n"a, b",x,"[""a, b"", ""c""]"\n')
    columns = SampleColumns(response="out", references=("ref_1", "ref_2"))
    assert score_samples(path, "accuracy", columns).scores["accuracy"].tolist() == [1, 1]


def test_a_separator(tmp_path: Path) -> None:
    path = csv(tmp_path, "response,references\nb,a; b\n")
    assert score_samples(path, "accuracy").means["accuracy"].value == 0
    assert score_samples(path, "accuracy", SampleColumns(separator="; ")).means["accuracy"].value == 1


def test_clusters_widen_the_interval(tmp_path: Path) -> None:
    rows = [{"response": "ab"[i // 20 % 2], "references": "a", "passage": i // 20} for i in range(200)]
    path = jsonl(tmp_path, *rows)
    alone, shared = (
        score_samples(path, "accuracy", SampleColumns(cluster=cluster)).means["accuracy"] for cluster in (None, "passage")
    )
    assert alone.value == shared.value == 0.5
    assert alone.plus_minus == pytest.approx(1.96 * math.sqrt(0.25 / 199), rel=1e-3)
    assert shared.plus_minus > 3 * alone.plus_minus


def test_an_empty_response_is_an_answer(tmp_path: Path) -> None:
    path = csv(tmp_path, "response,references\n,b\n")
    for metric in ("squad_v2", "quac", "rouge", "accuracy"):
        scores = score_samples(path, metric)
        assert scores.num_scored == 1
        assert all(mean.value == 0 for mean in scores.means.values())


# ---------------------------------------------------------------------------------------------------- rows without a score


def test_bad_jsonl_rows_are_named(tmp_path: Path) -> None:
    good = b'{"response": "a", "references": ["a"]}\n'
    bad = (
        b'{"response": "caf\xe9", "references": ["a"]}\n',
        b'["a"]\n',
        b'{"references": ["a"]}\n',
        b'{"response": null, "references": ["a"]}\n',
        b'{"response": "a", "references": [1.5]}\n',
        b'{"response": "a", "references": []}\n',
        b'{"response": "\\ud800", "references": ["a"]}\n',
        b'{"response": "a", "refer',
    )
    path = tmp_path / "mixed.jsonl"
    path.write_bytes(good + b"\n" + b"".join(bad[:3]) + good + b"".join(bad[3:]))
    scores = score_samples(path, "accuracy")
    assert scores.lines.tolist() == [1, 6]
    assert scores.num_rows == 10 == scores.num_scored + len(scores.unscored)
    reasons = {row.line: row.reason for row in scores.unscored}
    assert list(reasons) == [3, 4, 5, 7, 8, 9, 10, 11]
    assert "not UTF-8" in reasons[3]
    assert "not an object" in reasons[4]
    assert reasons[5] == "no column 'response' among references"
    assert reasons[7] == "column 'response' holds NoneType instead of text"
    assert reasons[8] == "column 'references' holds float instead of text"
    assert reasons[9] == "no reference"
    assert "surrogate" in reasons[10]
    assert "not JSON" in reasons[11]
    assert scores.means["accuracy"].value == 1
    assert "10, scored 2, not scored 8" in scores.summary()
    assert "(line 5)" in scores.summary()


def test_bad_csv_rows_are_named(tmp_path: Path) -> None:
    path = csv(
        tmp_path,
        b"response,references\r\n"
        b"a,a\r\n"  # 2
        b"one cell\r\n"
        b'"two\nlines",a\r\n'  # 4 and 5
        b"caf\xe9,a\r\n"  # 6
        b'"never closed,a\r\n'
        b"b,a\r\n"
        b'"ab"c,a\r\n'
        b"\r\n"
        b"a,a,a\r\n"  # 11
        b'"b,b",a\r\n'
        b"a,",
    )
    scores = score_samples(path, "accuracy")
    assert scores.lines.tolist() == [2, 4, 8, 12]
    assert scores.scores["accuracy"].tolist() == [1, 0, 0, 0]
    reasons = {row.line: row.reason for row in scores.unscored}
    assert list(reasons) == [3, 6, 7, 9, 11, 13]
    assert "1 cells where the header has 2" in reasons[3]
    assert reasons[6] == "not UTF-8"
    assert "not CSV" in reasons[7]
    assert "not CSV" in reasons[9]
    assert reasons[13] == "no reference"
    assert "no line end" in scores.summary()


def test_log_probabilities_that_cannot_be(tmp_path: Path) -> None:
    rows = ([-1.0], "x", [-1.0, None], [-1.0, 0.5], [True, -1.0])
    path = jsonl(tmp_path, *({"logprobs": one, "answer": 0} for one in rows), {"logprobs": [-1.0, -2.0], "answer": 2})
    for metric in ("entropy", "choice"):
        assert score_samples(path, metric).num_scored == (1 if metric == "entropy" else 0)


def test_a_file_that_cannot_be_read_at_all(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no file"):
        score_samples(tmp_path / "nothing.csv", "accuracy")
    for content in (b"", b"a,a\n1,2\n", "response,references\n".encode("utf-16")):
        with pytest.raises(DataError):
            score_samples(csv(tmp_path, content), "accuracy")


def test_no_rows(tmp_path: Path) -> None:
    scores = score_samples(csv(tmp_path, "response,references\n"), "squad_v2")
    assert (scores.num_rows, scores.means) == (0, {})
    assert "holds no row" in scores.summary()


# ---------------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize("metric", ["squad_v2", "drop", "quac", "rouge", "accuracy"])
def test_a_hundred_thousand_rows_in_seconds(metric: Any, tmp_path: Path) -> None:
    """A tenth of them here, in CPU seconds, with room for a busy machine; the whole is in docs/evaluation.md."""
    generator = np.random.default_rng(0)
    words = np.array(["the", "river", "runs", "Paris", "12", "yards", "king,", "house"])
    texts = [" ".join(words[generator.integers(8, size=8)]) for _ in range(5000)]
    rows = [{"response": texts[i % 5000], "references": [texts[i * 7 % 5000], texts[i * 3 % 5000]]} for i in range(10_000)]
    path = jsonl(tmp_path, *rows)
    assert takes_less_than(10, lambda: score_samples(path, metric)).num_scored == 10_000
