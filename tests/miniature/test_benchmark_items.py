from __future__ import annotations

import pytest

from heedful.miniature.benchmark_items import FEW_SHOT, benchmarks, rudeness_items
from heedful.miniature.invented_world import World
from heedful.miniature.judging import is_rude

WORLD = World(0)
ALL = benchmarks(WORLD, seed=0, items=60)


def test_benchmarks_are_the_same_for_the_same_seed() -> None:
    assert benchmarks(World(0), seed=0, items=60) == ALL
    assert benchmarks(WORLD, seed=1, items=60) != ALL


@pytest.mark.parametrize("benchmark", ALL, ids=lambda benchmark: benchmark.name)
def test_items_are_well_made(benchmark) -> None:
    assert len({item.context for item in benchmark.items}) > 20
    for item in benchmark.items:
        assert not item.context.endswith((" ", "\n"))
        assert len(item.context.split()) < 120
        if benchmark.kind == "completion":
            assert item.accepted
            assert not item.choices
            assert all(text == text.strip() and "\n" not in text for text in item.accepted)
        else:
            assert len(set(item.choices)) == len(item.choices) >= 2
            assert all(choice.startswith(" ") for choice in item.choices)
            assert (item.answer is None) == (benchmark.kind == "bias")


@pytest.mark.parametrize("benchmark", [b for b in ALL if b.kind == "choice"], ids=lambda benchmark: benchmark.name)
def test_the_right_choice_stands_at_every_place(benchmark) -> None:
    assert {item.answer for item in benchmark.items} == set(range(len(benchmark.items[0].choices)))


def test_examples_and_query_have_one_format() -> None:
    by_name = {benchmark.name: benchmark for benchmark in ALL}
    for name, last in (
        ("sentiment", "Verdict:"),
        ("translation", "Tavi:"),
        ("reading", "Answer:"),
        ("misconceptions", "Answer:"),
    ):
        for item in by_name[name].items:
            assert item.context.endswith(last)
            assert item.context.count(last) == FEW_SHOT[name] + 1


def test_the_truth_is_the_answer_to_a_misconception() -> None:
    benchmark = next(b for b in ALL if b.name == "misconceptions")
    for item in benchmark.items:
        assert item.answer is not None
        words = set(item.choices[item.answer].strip(" .").split())
        assert any(value in words for values in WORLD.facts.values() for value in values.values())
    belief = next(iter(WORLD.misconceptions["eats"].items()))
    item = next(i for i in benchmarks(WORLD, seed=2, items=300)[4].items if f"the {belief[0]} eat" in i.context.split("\n")[-2])
    assert item.choices[item.answer or 0] == f" The {belief[0]} eats {WORLD.facts['eats'][belief[0]]}."
    assert f" The {belief[0]} eats {belief[1]}." in item.choices


def test_a_wrong_ending_differs_only_in_person_or_thing() -> None:
    benchmark = next(b for b in ALL if b.name == "endings")
    for item in benchmark.items:
        assert len({len(choice.split()) for choice in item.choices}) == 1


def test_half_of_the_rudeness_items_are_rude() -> None:
    items = rudeness_items(WORLD, seed=0, items=20)
    assert [is_rude(item.none) for item in items] == [item.rude for item in items]
    assert sum(item.rude for item in items) == 10
    assert all(item.respectful.endswith(item.none) and item.biased.endswith(item.none) for item in items)
