"""Scores of single answers by the data sets' rules, means, and differences of models: numbers by hand or from sacrebleu."""

from __future__ import annotations

import math
from typing import Any

import pytest
from sacrebleu.metrics.bleu import BLEU

from heedful.evaluate.benchmarks.benchmark_scores import (
    bias_numbers,
    choice_numbers,
    corpus_bleu,
    drop_numbers,
    item_numbers,
    quac_numbers,
    series_differences,
    series_scores,
    squad_numbers,
    summary_numbers,
    wsc_numbers,
)
from heedful.evaluate.benchmarks.series import Series
from heedful.evaluate.benchmarks.task_table import Item, Setting, task_named


def item(**facts: Any) -> Item:
    return Item(id="i", facts=facts)


def said(response: str) -> dict[str, Any]:
    return {"response": response, "finished": True, "cut": 0}


def test_squad_takes_the_paper_s_words_for_no_answer() -> None:
    unanswerable, answerable = item(answers=[]), item(answers=["the cold sea", "sea"])
    for words in ("Not in background.", "not in background", ""):
        assert squad_numbers(unanswerable, said(words)) == {"f1": 1, "exact": 1}
        assert squad_numbers(answerable, said(words)) == {"f1": 0, "exact": 0}
    assert squad_numbers(unanswerable, said("sea")) == {"f1": 0, "exact": 0}
    # "cold sea" is one reference without its article; "big sea" shares one of two words with it, and has F1 2/3 with "sea".
    assert squad_numbers(answerable, said("Cold sea!")) == {"f1": 1, "exact": 1}
    assert squad_numbers(answerable, said("big sea"))["f1"] == pytest.approx(2 / 3)


def test_quac_takes_the_paper_s_words_and_leaves_out_what_people_disagree_on() -> None:
    none = item(answers=["CANNOTANSWER", "CANNOTANSWER"])
    assert quac_numbers(none, said("I don't know."))["f1"] == 1
    assert quac_numbers(none, said("CANNOT"))["f1"] == 0
    torn = quac_numbers(item(answers=["red houses", "a blue boat"]), said("red houses"))
    assert math.isnan(torn["f1"])
    assert math.isnan(torn["heq"])
    # Leave one out: without the first answer 0, without the second 1.
    assert torn["unfiltered_f1"] == 0.5
    agreed = quac_numbers(item(answers=["red houses", "houses"]), said("red houses"))
    # Without the first 2/3, without the second 1; people match each other by 2/3.
    assert agreed == {"f1": pytest.approx(5 / 6), "unfiltered_f1": pytest.approx(5 / 6), "heq": 1}


def test_drop_takes_the_best_of_people_s_answers() -> None:
    answers = [["12"], ["13"], ["", ""]]
    assert drop_numbers(item(answers=answers), said("13 cats")) == {"f1": 0.67, "exact": 0}
    assert drop_numbers(item(answers=answers), said("12")) == {"f1": 1, "exact": 1}
    assert drop_numbers(item(answers=answers), said("14"))["f1"] == 0
    assert drop_numbers(item(answers=[["3 May 1999"]]), said("May 3, 1999"))["f1"] == 1


@pytest.mark.parametrize(
    ("response", "label", "score"),
    [
        ("trophy", 1, 1),
        ("The trophy is", 1, 1),
        ("troph", 1, 1),
        ("case", 1, 0),
        ("case", 0, 1),
        ("the trophy", 0, 0),
        ("", 1, 0),  # an empty text is part of every noun, and answers nothing
        ("", 0, 1),
    ],
)
def test_wsc_asks_whether_the_sample_holds_the_noun(response: str, label: int, score: int) -> None:
    assert wsc_numbers(item(noun="the trophy" if score == 0 and label == 0 else "trophy", label=label), said(response)) == {
        "accuracy": score
    }


def test_choices_go_by_the_mean_and_bias_by_the_total() -> None:
    """The first choice is likelier as a whole, the second for each token."""
    row = {"logprobs": [-2.0, -3.0], "lengths": [1, 3]}
    assert choice_numbers(Item(id="i", answer=1), row) == {"accuracy": 1}
    assert choice_numbers(Item(id="i", answer=0), row) == {"accuracy": 0}
    # P = 1 / (1 + e^-1) = 0.731059: H = 0.731059 * 0.451942 + 0.268941 * 1.894637 bits.
    assert bias_numbers(Item(id="i"), row)["entropy"] == pytest.approx(0.839944, abs=1e-5)
    assert bias_numbers(Item(id="i"), {"logprobs": [-9.0, -9.0]})["entropy"] == pytest.approx(1)


def test_summaries() -> None:
    """Three of four and three of three words in order: F1 = 2 * 3/4 / (7/4)."""
    assert summary_numbers(item(summary="red dog back"), said("The red dog (back)"))["rougeL"] == pytest.approx(6 / 7)


# ---------------------------------------------------------------------------------------------------- series

SENTENCES = [
    ("The cat sat on the red mat today.", "The cat sat on the mat."),
    ("A dog barks at night, always.", "The dog barks at night."),
    ("Nothing here is alike!", "She went home."),
    ("They sold the old house in May.", "They sold the old house in May."),
]


def translations() -> tuple[Series, dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    items = tuple(Item(id=str(i), prompt="?", facts={"english": english}) for i, (_, english) in enumerate(SENTENCES))
    ours = {str(i): {**said(text), "id": str(i)} for i, (text, _) in enumerate(SENTENCES)}
    right = {str(i): {**said(text), "id": str(i)} for i, (_, text) in enumerate(SENTENCES)}
    return Series(task=task_named("wmt15_fr_en"), setting="zero-shot", items=items), ours, right


def test_bleu_is_sacrebleu_s_and_has_an_interval() -> None:
    series, ours, right = translations()
    whole = BLEU().corpus_score([text for text, _ in SENTENCES], [[english for _, english in SENTENCES]]).score
    estimate = corpus_bleu(series, ours)
    assert estimate.value == pytest.approx(whole, abs=1e-9)
    assert estimate.low < whole < estimate.high
    (score,) = series_scores("m", series, ours, item_numbers(series, ours))
    assert (score.metric, score.estimate, score.num_unscored) == ("bleu", estimate, 0)
    (difference,) = series_differences("m", "right", series, (ours, [{}] * 4), (right, [{}] * 4))
    assert difference.difference.value == pytest.approx(100 - whole, abs=1e-9)
    assert difference.difference.low > 0


def series_of_items(task: str, setting: Setting, *items: Item) -> Series:
    return Series(task=task_named(task), setting=setting, items=items)


def test_means_and_counts() -> None:
    items = tuple(Item(id=str(i), facts={"answers": [], "label": 1}, cluster=str(i // 2)) for i in range(4))
    series = series_of_items("squad_v2", "zero-shot", *items)
    rows: dict[str, dict[str, Any]] = {
        "0": {"response": "", "finished": True, "cut": 0},
        "1": {"response": "x", "finished": False, "cut": 3},
        "2": {"response": "x", "finished": False, "cut": 0},
        "3": {"response": "Not in background.", "finished": True, "cut": 1},
    }
    f1, exact = series_scores("m", series, rows, item_numbers(series, rows))
    assert (f1.metric, exact.metric) == ("f1", "exact")
    assert (f1.estimate.value, f1.num_items, f1.num_unscored) == (0.5, 4, 0)
    assert (f1.num_cut, f1.num_unfinished, f1.num_empty) == (2, 2, 1)
    # Both clusters have one right answer of two: every resampled mean is 0.5.
    assert (f1.estimate.low, f1.estimate.high) == (0.5, 0.5)


def test_unscored_items_are_in_no_mean_and_no_difference() -> None:
    items = tuple(Item(id=str(i), prompt="?", facts={"question": "?"}) for i in range(3))
    series = series_of_items("truthfulqa", "qa", *items)
    rows = {str(i): said("no") for i in range(3)}
    judged = {"0": {"true": 1.0, "true_informative": 0.0}, "1": {"true": 0.0, "true_informative": 0.0}}
    numbers = item_numbers(series, rows, judged)
    true, both = series_scores("m", series, rows, numbers)
    assert (true.estimate.value, true.estimate.count, true.num_unscored) == (0.5, 2, 1)
    assert (both.estimate.value, both.num_unscored) == (0, 1)
    other = item_numbers(
        series, rows, {"1": {"true": 1.0, "true_informative": 1.0}, "2": {"true": 1.0, "true_informative": 1.0}}
    )
    difference, _ = series_differences("m", "n", series, (rows, numbers), (rows, other))
    assert (difference.difference.value, difference.num_items) == (1, 1)
    unjudged, _ = series_scores("m", series, rows, item_numbers(series, rows))
    assert math.isnan(unjudged.estimate.value)
    assert unjudged.num_unscored == 3


def test_differences_are_paired() -> None:
    items = tuple(Item(id=str(i), answer=0) for i in range(40))
    series = series_of_items("rte", "zero-shot", *items)
    numbers = [{"accuracy": float(i % 2)} for i in range(40)]
    better = [{"accuracy": 1.0} if i == 0 else one for i, one in enumerate(numbers)]
    rows = {str(i): {"cut": 0} for i in range(40)}
    (difference,) = series_differences("a", "b", series, (rows, numbers), (rows, better))
    assert difference.difference.value == pytest.approx(1 / 40)
    # One item of forty differs: the interval is far narrower than that of either mean (about 0.15 on both sides).
    assert difference.difference.low >= 0
    assert difference.difference.high < 0.1
    (same,) = series_differences("a", "b", series, (rows, numbers), (rows, numbers))
    assert (same.difference.low, same.difference.high) == (0, 0)
