"""Careless labelers are flagged, careful ones are not, and the stated chances are right."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from heedful.errors import ConfigError, DataError
from heedful.statistics import CarelessnessThresholds, Submission, binomial_tail, carelessness, chance_of_run


def careful(rng: np.random.Generator, labeler: str, count: int = 200, **changed: Any) -> list[Submission]:
    """Half a minute and 0.03 s per character, log-normal with sigma 0.5; answers and places independent of what is shown."""
    made = []
    for i in range(count):
        characters = int(rng.integers(200, 8000))
        k = int(rng.integers(4, 10))
        fields: dict[str, Any] = {
            "id": f"{labeler}-{i}",
            "labeler": labeler,
            "kind": "rank",
            "seconds": float((30 + 0.03 * characters) * rng.lognormal(0, 0.5)),
            "characters": characters,
            "answer": str(rng.choice(["no", "yes"], p=[0.9, 0.1])),
            "num_outputs": k,
            "first_shown_best": bool(rng.random() < 1 / k),
            "identical_forms": bool(rng.random() < 0.03),
        }
        made.append(Submission(**{**fields, **changed}))
    return made


def team(seed: int, **changed: Any) -> list[Submission]:
    """Nine careful labelers and "odd", whose submissions are changed."""
    rng = np.random.default_rng(seed)
    others = [s for n in range(9) for s in careful(rng, f"l{n}")]
    return others + [dataclasses.replace(s, **{k: v(s) for k, v in changed.items()}) for s in careful(rng, "odd")]


def signs(submissions: list[Submission], **thresholds: Any) -> dict[str, tuple[str, ...]]:
    rows = carelessness(submissions, CarelessnessThresholds(**thresholds) if thresholds else None)
    return {row.labeler: row.signs for row in rows if row.signs}


@pytest.mark.parametrize(
    ("sign", "changed"),
    [
        ("fast", {"seconds": lambda s: s.seconds / 3}),
        ("fast", {"seconds": lambda s: 2.0 if s.id.endswith("7") else s.seconds}),
        ("repeated answer", {"answer": lambda s: "yes"}),
        (
            "repeated answer",
            {"answer": lambda s: "yes" if s.id[4:] in {"20", "21", "22", "23", "24", "25", "26", "27"} else "no"},
        ),
        ("repeated answer", {"answer": lambda s: "no"}),
        ("first shown", {"first_shown_best": lambda s: True}),
        ("first shown", {"first_shown_best": lambda s: s.id[-1] in "12345"}),
        ("identical forms", {"identical_forms": lambda s: s.id[-1] in "123"}),
    ],
)
def test_each_sign_is_seen_and_nothing_else(sign: str, changed: Any) -> None:
    assert signs(team(1, **changed)) == {"odd": (sign,)}


def test_careful_labelers_are_hardly_ever_flagged() -> None:
    """200 careful labelers: of 800 possible signs fewer than 5."""
    found = [sign for seed in range(20) for own in signs(team(seed)).values() for sign in own]
    assert len(found) < 5


def test_small_but_certain_differences_are_no_sign() -> None:
    """A little more often first than chance, with a thousand tasks: certain, and nothing to reproach anyone with."""
    rng = np.random.default_rng(2)
    others = [s for n in range(4) for s in careful(rng, f"l{n}")]
    odd = [
        dataclasses.replace(
            s, first_shown_best=bool(rng.random() < 1.5 / s.num_outputs), identical_forms=bool(rng.random() < 0.05)
        )
        for s in careful(rng, "odd", 3000)
    ]
    row = next(row for row in carelessness(others + odd) if row.labeler == "odd")
    assert row.first_shown_chance < 1e-6
    assert row.signs == ()
    assert "first shown" in signs(others + odd, excess=1.2)["odd"]


def test_too_few_submissions_say_nothing() -> None:
    rng = np.random.default_rng(3)
    others = [s for n in range(4) for s in careful(rng, f"l{n}")]
    odd = careful(rng, "odd", 19, seconds=1.0, first_shown_best=True)
    assert signs(others + odd) == {}
    assert set(signs(others + odd, min_submissions=19)["odd"]) == {"fast", "first shown"}


def test_short_texts_are_quick_without_being_fast() -> None:
    """One works only on the shortest texts, in a tenth of the others' time: no sign, for that is what these take."""
    rng = np.random.default_rng(4)
    others = [s for n in range(9) for s in careful(rng, f"l{n}")]
    short = [s for s in others if s.characters < 900]
    assert len(short) > 100
    odd = [dataclasses.replace(s, id=f"odd{i}", labeler="odd") for i, s in enumerate(short)]
    row = next(row for row in carelessness(others + odd) if row.labeler == "odd")
    assert 0.8 < row.pace_ratio < 1.25
    assert "fast" not in row.signs


def test_fast_by_hand() -> None:
    """Texts of one length, usual time 90 s: below 30 s is fast, also for who needs 180 s as a rule; below 20 s for 60 s."""
    base = {"kind": "rate", "characters": 100}
    usual = [Submission(id=f"u{i}", labeler="ann", seconds=90, **base) for i in range(50)]
    quick = [Submission(id=f"q{i}", labeler="bob", seconds=60, **base) for i in range(20)]
    slow = [Submission(id=f"s{i}", labeler="cem", seconds=180, **base) for i in range(20)]
    tries = [
        Submission(id="28", labeler="cem", seconds=28, **base),
        Submission(id="32", labeler="cem", seconds=32, **base),
        Submission(id="29", labeler="ann", seconds=29, **base),
        Submission(id="31", labeler="ann", seconds=31, **base),
        Submission(id="19", labeler="bob", seconds=19, **base),
        Submission(id="21", labeler="bob", seconds=21, **base),
    ]
    ann, bob, cem = carelessness(usual + quick + slow + tries)
    assert (ann.labeler, ann.fast_ids) == ("ann", ("29",))
    assert (bob.labeler, bob.fast_ids) == ("bob", ("19",))
    assert (cem.labeler, cem.fast_ids) == ("cem", ("28",))
    assert ann.fast.value == 1 / 52
    # over the median of 60 and 180, of 90 and 180, of 90 and 60
    assert ann.pace_ratio == pytest.approx(90 / 120)
    assert bob.pace_ratio == pytest.approx(60 / 135)
    assert cem.pace_ratio == pytest.approx(180 / 75)


def test_kinds_do_not_mix_and_the_order_of_labelers_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    ranks = [s for n in range(4) for s in careful(rng, f"l{n}", 40)]
    rates = [dataclasses.replace(s, kind="rate", seconds=s.seconds / 20, id="r" + s.id) for s in ranks]
    both = carelessness(ranks + rates)
    assert [(row.kind, row.labeler) for row in both] == [(k, f"l{n}") for k in ("rank", "rate") for n in range(4)]
    assert both[:4] == carelessness(ranks)
    assert both[4].pace_ratio == pytest.approx(both[0].pace_ratio)
    by_name = sorted(ranks, key=lambda s: s.labeler, reverse=True)
    assert carelessness(by_name) == both[:4]


def test_one_labeler_alone() -> None:
    rng = np.random.default_rng(6)
    (row,) = carelessness(careful(rng, "ann", 50, answer="no", first_shown_best=True, identical_forms=True))
    assert math.isnan(row.pace_ratio)
    assert (row.run, row.run_answer, row.run_chance) == (0, None, 1.0)
    assert row.identical_forms_chance == 1
    assert row.signs == ("first shown",)
    assert carelessness([]) == []


def test_a_run_is_judged_by_how_common_its_answer_is() -> None:
    rng = np.random.default_rng(7)
    others = [s for n in range(4) for s in careful(rng, f"l{n}")]
    answers = ["no"] * 12 + ["yes"] * 6 + ["no", "yes"] * 10
    odd = [dataclasses.replace(s, answer=a) for s, a in zip(careful(rng, "odd", len(answers)), answers, strict=True)]
    row = next(row for row in carelessness(others + odd) if row.labeler == "odd")
    assert (row.run, row.run_answer) == (7 - 1, "yes")  # not the twelve times "no"
    yes = sum(s.answer == "yes" for s in others)
    assert row.run_chance == pytest.approx(2 * chance_of_run(6, len(answers), (yes + 1) / (len(others) + 2)))


@pytest.mark.parametrize(("length", "count", "share"), [(3, 10, 0.5), (5, 100, 0.3), (4, 4, 0.7), (30, 200, 0.9)])
def test_the_chance_of_a_run_bounds_the_true_one(length: int, count: int, share: float) -> None:
    """The true one by going through the places: state = length of the run so far."""
    state = np.zeros(length + 1)
    state[0] = 1
    for _ in range(count):
        state = np.concatenate([[(1 - share) * state[:-1].sum()], share * state[:-2], [state[-1] + share * state[-2]]])
    assert state[-1] <= chance_of_run(length, count, share) + 1e-12
    assert chance_of_run(length, count, share) < 2.5 * state[-1]


def test_the_chance_of_a_run_at_the_edges() -> None:
    assert chance_of_run(3, 10, 0.5) == pytest.approx(1 / 8 * (1 + 7 / 2))
    assert chance_of_run(11, 10, 0.99) == 0
    assert chance_of_run(0, 10, 0.0) == 1
    assert chance_of_run(10, 10, 1.0) == 1


@given(st.integers(0, 60), st.integers(0, 60), st.sampled_from([0.0, 1e-3, 0.25, 0.5, 0.9, 1.0]))
def test_the_binomial_tail_is_scipys(successes: int, count: int, probability: float) -> None:
    expected = stats.binom.sf(successes - 1, count, probability)
    assert binomial_tail(successes, count, probability) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_the_chance_of_first_shown_mixes_the_ks() -> None:
    """Two outputs and four outputs, chosen first both times: 1/2 * 1/4; once or more: 1 - 1/2 * 3/4."""
    base = {"labeler": "ann", "kind": "rank", "seconds": 60, "characters": 100}
    two = Submission(id="2", num_outputs=2, first_shown_best=True, **base)
    four = Submission(id="4", num_outputs=4, first_shown_best=True, **base)
    assert carelessness([two, four])[0].first_shown_chance == pytest.approx(1 / 8)
    once = carelessness([two, dataclasses.replace(four, first_shown_best=False)])[0]
    assert once.first_shown_chance == pytest.approx(5 / 8)
    # tied at the top: not counted
    assert carelessness([two, dataclasses.replace(four, first_shown_best=None)])[0].first_shown_best.count == 1


def test_what_cannot_be_is_refused() -> None:
    for changed in ({"seconds": -1.0}, {"seconds": math.nan}, {"characters": -1}, {"num_outputs": 0}):
        with pytest.raises(DataError, match="not valid"):
            careful(np.random.default_rng(0), "ann", 1, **changed)
    wrong: list[dict[str, Any]] = [{"fast_ratio": 0}, {"chance": 1}, {"min_run": 1}, {"excess": 0.5}, {"fast_share": 2}]
    for changed in wrong:
        with pytest.raises(ConfigError, match=next(iter(changed))):
            CarelessnessThresholds(**changed)
