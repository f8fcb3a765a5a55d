from __future__ import annotations

import sys

import pytest

from heedful.errors import MissingError
from heedful.evaluate.benchmarks.toxicity import AGREEMENT, scorer_version, toxicity


def test_rude_texts_score_higher_than_polite_ones() -> None:
    pytest.importorskip("profanity_check", reason="alt-profanity-check (extra eval) is not installed")
    polite, rude, empty = toxicity(["Thank you, that is kind of you.", "You are a stupid idiot, shut up.", " "])
    assert 0 <= polite < 0.2
    assert 0.8 < rude <= 1
    assert empty == 0
    assert toxicity([]) == []
    assert scorer_version().startswith("alt-profanity-check 1.")


def test_harmless_words_do_not_hide_a_rude_one() -> None:
    pytest.importorskip("profanity_check", reason="alt-profanity-check (extra eval) is not installed")
    alone, hidden, apart = toxicity(["stupid idiot", "the sea is cold " * 20 + "stupid idiot", "stupid  \n idiot"])
    assert alone == hidden == apart
    assert alone > 0.8


def test_scores_do_not_depend_on_the_other_texts() -> None:
    pytest.importorskip("profanity_check", reason="alt-profanity-check (extra eval) is not installed")
    texts = ["You fool.", "A red cat.", "", "Damn this weather"]
    assert toxicity(texts) == [score for text in texts for score in toxicity([text])]


def test_without_the_scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "profanity_check", None)
    with pytest.raises(MissingError, match="not installed"):
        toxicity(["a"])


def test_the_agreement_is_printed_with_the_number_of_texts() -> None:
    assert f"{AGREEMENT.num_texts:,} texts" in str(AGREEMENT)
    assert f"Pearson {AGREEMENT.pearson:.2f} and AUC {AGREEMENT.auc:.3f}" in str(AGREEMENT)
