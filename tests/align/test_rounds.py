"""Further rounds: their rows of the table, what counts as a round that is over, and the rule that accepts a policy or not."""

from __future__ import annotations

import itertools
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from heedful.align.round_benchmarks import _row, interval_of_drop, task_and_setting
from heedful.align.round_decision import verdict, with_intervals_if
from heedful.align.round_intake import votes_as_rankings
from heedful.align.round_steps import _measured
from heedful.align.rounds import Opened, rows_of_round, with_rule
from heedful.align.stages import STAGES, Input, config_of
from heedful.align.status import _change_in_points
from heedful.align.steps import ROUND_STEPS, ROUND_TASKS, step_of, tasks_of
from heedful.errors import ConfigError, DataError
from heedful.evaluate.benchmarks.benchmark_scores import SeriesScore
from heedful.evaluate.results import RoundBenchmark
from heedful.presets import RoundsConfig, miniature, resolved_preset
from heedful.project.ended_rounds import (
    EndedRound,
    Known,
    Run,
    current_policy,
    ended_rounds,
    first_stage,
    newest_round,
    rounds_to_do,
    save_round,
)
from heedful.project.project import Project, init_project
from heedful.statistics import Estimate

KNOWN = Known(prompts=frozenset("ab"), demonstrations=frozenset("c"))


def ended(runs: Path, number: int, policy: str, began_with: str | None, last: str = "end") -> EndedRound:
    names = ["sft", "ppo_ptx", "evaluate"] if number == 1 else [f"policy_{number}", f"decide_{number}"]
    made = {name: Run(folder=runs / f"{name}-1", fingerprint=f"{last}-{number}-{name}") for name in names}
    return EndedRound(number=number, runs=made, policy=policy, known=KNOWN, began_with=began_with)


def opened(number: int = 2, policy: str = "ppo_ptx") -> Opened:
    first = ended(Path("runs"), 1, "ppo_ptx", None)
    earlier = [first] + [replace(ended(Path("runs"), n, policy, None)) for n in range(2, number)]
    return Opened(number=number, earlier=tuple(earlier))


@pytest.mark.parametrize(
    ("choose", "policy", "new", "text"),
    list(itertools.product(("random", "disagreement"), ("fresh", "onwards"), (False, True), (False, True))),
)
def test_rows_need_only_what_is_done_before_them(choose: Any, policy: Any, new: bool, text: bool) -> None:
    for number in (2, 3):
        one = opened(number)
        rows = rows_of_round(one, RoundsConfig(choose=choose, policy=policy), with_text=text, new_demonstrations=new)
        done = {row.name for row in STAGES} | one.runs.keys()
        for row in rows:
            assert {need for need in row.needs.values() if need is not None} <= done | set(get_args(Input)), row.name
            assert row.beside is None or row.beside in done
            assert pickle.loads(pickle.dumps(row)) == row
            assert step_of(row) in ROUND_STEPS.values()
            assert row.asks is None or tasks_of(row) in ROUND_TASKS.values()
            done.add(row.name)
        names = [row.name for row in rows]
        assert (names[0], names[-1]) == (first_stage(number), f"decide_{number}")
        assert (f"initial_policy_{number}" in names) == (new and policy == "fresh")
        assert sum(name.startswith("member_") for name in names) == (3 if choose == "disagreement" else 0)
        by_name = {row.name: row for row in rows}
        trained = by_name[f"policy_{number}"]
        again = f"initial_policy_{number}" if new else "initial_policy"
        assert trained.needs["initial"] == (again if policy == "fresh" else one.current)
        assert config_of(trained, miniature()).ptx_coefficient == (miniature().ppo.ptx_coefficient if text else 0)


def test_a_rejected_policy_is_not_what_the_next_round_starts_from() -> None:
    def start(policy: str) -> str | None:
        rows = rows_of_round(opened(3, policy), RoundsConfig(policy="onwards"), with_text=True, new_demonstrations=False)
        assert all(row.needs.get("current", policy) == policy for row in rows)
        return next(row for row in rows if row.name == "policy_3").needs["initial"]

    assert (start("policy_2"), start("ppo_ptx")) == ("policy_2", "ppo_ptx")


def test_the_older_word_for_a_fresh_policy_is_still_read(tmp_path: Path) -> None:
    for number, (written, read) in enumerate((("anew", "fresh"), ("fresh", "fresh"), ("onwards", "onwards"))):
        project = init_project(tmp_path / str(number), base_model="none")
        with project.config_file.open("a", encoding="utf-8") as file:
            file.write(f'\n[rounds]\npolicy = "{written}"\n')
        assert resolved_preset(Project.load(project.folder)).rounds.policy == read


def test_a_policy_starts_fresh_from_the_newest_initial_policy() -> None:
    one = opened(3)
    second = one.earlier[1]
    again = {"initial_policy_2": Run(folder=Path("x"), fingerprint="i"), **second.runs}
    for runs, name in ((second.runs, "initial_policy"), (again, "initial_policy_2")):
        changed = replace(one, earlier=(one.earlier[0], replace(second, runs=runs)))
        rows = rows_of_round(changed, RoundsConfig(), with_text=True, new_demonstrations=False)
        assert next(row for row in rows if row.name == "policy_3").needs["initial"] == name


def test_members_differ_by_seed_and_a_round_asks_its_own_number() -> None:
    rows = rows_of_round(opened(), RoundsConfig(choose="disagreement"), with_text=True, new_demonstrations=False)
    preset = miniature(7)
    seeds = [config_of(row, preset).seed for row in rows if row.name.startswith("member_")]
    assert seeds == [8, 9, 10]
    collect = config_of(next(row for row in rows if row.name == "collect_2"), preset)
    assert (collect.prompts, collect.validation_prompts) == (preset.rounds.prompts, preset.rounds.validation_prompts)
    assert collect.smallest_k == preset.collect.smallest_k


# ---------------------------------------------------------------------------------------------------- rounds on the disk


def test_rounds_that_are_over_and_those_to_do(tmp_path: Path) -> None:
    assert (ended_rounds(tmp_path), newest_round(tmp_path), current_policy(tmp_path)) == ([], 1, None)
    assert list(rounds_to_do(tmp_path, None)) == [1]
    assert list(rounds_to_do(tmp_path, 3)) == [1, 2, 3]
    first = ended(tmp_path, 1, "ppo_ptx", None)
    save_round(tmp_path, first)
    assert ended_rounds(tmp_path) == [first]
    assert list(rounds_to_do(tmp_path, None)) == [1]
    assert list(rounds_to_do(tmp_path, 2)) == [2]
    begun = tmp_path / "prompts_2-1"
    begun.mkdir()
    (begun / "stage.json").write_text(json.dumps({"inputs": {"previous": "of an older round 1"}}))
    assert newest_round(tmp_path) == 1
    (begun / "stage.json").write_text(json.dumps({"inputs": {"previous": first.ended_with}}))
    assert newest_round(tmp_path) == 2
    assert list(rounds_to_do(tmp_path, None)) == [2]
    save_round(tmp_path, ended(tmp_path, 2, "ppo_ptx", first.ended_with))
    assert len(ended_rounds(tmp_path)) == 2
    assert current_policy(tmp_path) == ("ppo_ptx", tmp_path / "ppo_ptx-1" / "model")  # the second was rejected
    assert list(rounds_to_do(tmp_path, None)) == [2]
    assert list(rounds_to_do(tmp_path, 1)) == [1]
    assert list(rounds_to_do(tmp_path, 4)) == [3, 4]
    with pytest.raises(ConfigError, match="1 or more"):
        rounds_to_do(tmp_path, 0)


def test_rounds_after_one_that_is_done_again_no_longer_count(tmp_path: Path) -> None:
    first = ended(tmp_path, 1, "ppo_ptx", None)
    second = ended(tmp_path, 2, "policy_2", first.ended_with)
    for one in (first, second, ended(tmp_path, 3, "policy_3", second.ended_with)):
        save_round(tmp_path, one)
    assert current_policy(tmp_path) == ("policy_3", tmp_path / "policy_3-1" / "model")
    save_round(tmp_path, ended(tmp_path, 1, "ppo_ptx", None, last="again"))
    assert [one.number for one in ended_rounds(tmp_path)] == [1]
    assert list(rounds_to_do(tmp_path, None)) == [1]


def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "round-1.json").write_text('{"round": 1}')
    with pytest.raises(DataError, match=r"round-1\.json"):
        ended_rounds(tmp_path)


# ---------------------------------------------------------------------------------------------------- the rule


def wins(value: float, low: float, high: float) -> Estimate:
    return Estimate(value, low, high, 100, 0.01)


def fell(points: float, metric: str = "accuracy") -> RoundBenchmark:
    return {"name": "reading", "metric": metric, "policy": 0.5 - points / 100, "against": 0.5, "drop": points}


def within(row: RoundBenchmark, low: float | None, high: float | None) -> RoundBenchmark:
    return {**row, "drop_low": low, "drop_high": high}


@pytest.mark.parametrize(
    ("estimate", "benchmarks", "accepted", "words"),
    [
        (wins(0.55, 0.51, 0.59), [], True, "no benchmark was measured"),
        (wins(0.55, 0.51, 0.59), [fell(2.0)], True, "no benchmark fell by more than the 2 points"),
        (wins(0.55, 0.51, 0.59), [fell(-1.0)], True, "none fell"),
        (wins(0.55, 0.51, 0.59), [fell(2.5)], False, "reading fell by 2.5 points; the rule allows 2"),
        (wins(0.55, 0.51, 0.59), [fell(9.0, "entropy (bits)")], True, "no benchmark was measured"),
        (
            wins(0.55, 0.51, 0.59),
            [within(fell(3.5), -0.5, 7.5)],
            True,
            "reading fell by 3.5 points; the rule allows 2, 95 % interval -0.5 to 7.5: it holds 0, so this may be chance",
        ),
        (wins(0.55, 0.51, 0.59), [within(fell(3.5), 0.0, 7.0)], True, "it holds 0"),
        (
            wins(0.55, 0.51, 0.59),
            [within(fell(3.5), 0.5, 6.5)],
            False,
            "reading fell by 3.5 points; the rule allows 2, 95 % interval 0.5 to 6.5",
        ),
        (wins(0.55, 0.51, 0.59), [within(fell(3.5), None, None)], False, "reading fell by 3.5 points; the rule allows 2"),
        # A drop that is surely there and smaller than allowed is allowed.
        (wins(0.55, 0.51, 0.59), [within(fell(1.5), 1.0, 2.0)], True, "no benchmark fell by more than the 2 points"),
        (wins(0.55, 0.51, 0.59), [within(fell(9.0), -1.0, 19.0), within(fell(3.0), 1.0, 5.0)], False, "1.0 to 5.0"),
        (wins(0.55, 0.50, 0.60), [within(fell(3.5), -0.5, 7.5)], False, "and this one is not"),
        (wins(0.55, 0.50, 0.60), [fell(0.0)], False, "an interval above 50 %, and this one is not"),
        (wins(0.40, 0.35, 0.45), [], False, "40.0 % of comparisons (95 % interval 35.0 to 45.0 %)"),
        (wins(0.90, math.nan, math.nan), [], False, "interval unknown"),
        (wins(math.nan, math.nan, math.nan), [], False, "no labeler has compared"),
    ],
)
def test_the_rule(estimate: Estimate, benchmarks: list[RoundBenchmark], accepted: bool, words: str) -> None:
    found, reasons = verdict(estimate, benchmarks, confidence=0.95, largest_drop=2.0)
    assert found == accepted
    assert words in " / ".join(reasons)


def public(name: str, metric: str, against: float, policy: float, allowed: float) -> RoundBenchmark:
    drop = (1 if metric == "bleu" else 100) * (against - policy)
    return {"name": name, "metric": metric, "policy": policy, "against": against, "drop": drop, "allowed": allowed}


def test_a_drop_of_just_what_is_allowed_is_allowed() -> None:
    # Floats: 100 * (0.71 - 0.69) = 2.0000000000000018. The second round of a miniature was rejected for it.
    row = public("reading", "exact match", 0.71, 0.69, 2.0)
    assert row["drop"] is not None
    assert row["drop"] > 2
    own: RoundBenchmark = {key: row[key] for key in row if key != "allowed"}  # pyright: ignore[reportAssignmentType]
    for benchmarks in ([row], [own]):
        assert verdict(wins(0.55, 0.51, 0.59), benchmarks, confidence=0.95, largest_drop=2.0)[0]
    assert "it did not fall further" in verdict(wins(0.55, 0.51, 0.59), [row], confidence=0.95, largest_drop=2.0)[1][1]
    for far in (public("reading", "exact match", 0.71, 0.685, 2.0), public("reading", "exact match", 0.5, 0.499, 0.0)):
        assert not verdict(wins(0.55, 0.51, 0.59), [far], confidence=0.95, largest_drop=2.0)[0]


def test_a_round_that_began_with_an_earlier_version_keeps_its_rule() -> None:
    rows = [within(fell(3.5), -0.5, 7.5), within(public("rte", "accuracy", 0.5, 0.47, 1.0), -2.0, 8.0)]
    better = wins(0.55, 0.51, 0.59)
    for row in rows:
        assert verdict(better, with_intervals_if(True, [row]), confidence=0.95, largest_drop=2.0)[0]
        assert not verdict(better, with_intervals_if(False, [row]), confidence=0.95, largest_drop=2.0)[0]


def test_the_interval_of_a_drop_is_that_of_the_change_turned_round() -> None:
    def change(low: float, high: float) -> Estimate:
        return Estimate((low + high) / 2, low, high, 200, 0.01)

    assert interval_of_drop(change(-0.075, 0.005), 100) == {"drop_low": -0.5, "drop_high": 7.5}
    assert interval_of_drop(change(-1.5, 0.0), 1.0) == {"drop_low": 0.0, "drop_high": 1.5}  # BLEU is in points
    assert str(interval_of_drop(change(-1.5, 0.0), 1.0)["drop_low"]) == "0.0"  # not -0.0, which a reader would ask about
    assert interval_of_drop(change(math.nan, math.nan), 100) == {"drop_low": None, "drop_high": None}


def test_a_drop_is_paired_by_item() -> None:
    # 200 items: the new policy loses 12 that the current one has right, and wins 5. By hand, with the variance of a
    # difference of -1, 0 or 1: sqrt((17 / 200 - 0.035**2) / 200) = 2.05 points. Two independent models with these scores
    # would have sqrt((0.5 * 0.5 + 0.465 * 0.535) / 200) = 4.99.
    current = [1.0] * 100 + [0.0] * 100
    policy = [0.0] * 12 + [1.0] * 88 + [1.0] * 5 + [0.0] * 95
    item = SimpleNamespace(name="reading", description="", items=(None,) * 200, kind="choice")
    found = _measured(item, [("current", current), ("policy", policy)], seed=0)  # pyright: ignore[reportArgumentType]
    assert found["drop_low"] == pytest.approx(3.5 - 1.96 * 2.05, abs=0.5)
    assert found["drop_high"] == pytest.approx(3.5 + 1.96 * 2.05, abs=0.5)
    assert [row["score"] for row in found["scores"]] == [0.5, 0.465]


def unscored(policy: float | None, against: float | None) -> RoundBenchmark:
    return {"name": "quac", "metric": "f1", "policy": policy, "against": against, "drop": None, "allowed": 1.0}


@pytest.mark.parametrize(
    ("benchmarks", "accepted", "words"),
    [
        (
            [public("squad_v2", "f1", 0.5, 0.375, 12.5)],
            True,
            "squad_v2: f1 fell by 12.5, from 50.0 to 37.5; the rule lets it fall by 12.5 points, and it did not fall further",
        ),
        ([public("squad_v2", "f1", 0.5, 0.375, 12.0)], False, "lets it fall by 12 points, and it fell further"),
        (
            [within(public("squad_v2", "f1", 0.5, 0.375, 12.0), -0.5, 25.5)],
            True,
            "12 points, and it fell further, 95 % interval -0.5 to 25.5: it holds 0, so this may be chance and does not count",
        ),
        (
            [within(public("squad_v2", "f1", 0.5, 0.375, 12.0), 5.5, 19.5)],
            False,
            "and it fell further, 95 % interval 5.5 to 19.5",
        ),
        ([within(public("squad_v2", "f1", 0.5, 0.375, 12.5), 5.5, 19.5)], True, "and it did not fall further"),
        ([public("wmt15_fr_en", "bleu", 20.5, 18.0, 2.0)], False, "bleu fell by 2.5, from 20.5 to 18.0"),
        ([public("rte", "accuracy", 0.5, 0.6, 0.0), public("sst", "accuracy", 0.5, 0.5, 0.0)], True, "accuracy rose by 10.0"),
        ([public("rte", "accuracy", 0.5, 0.6, 0.0), fell(2.5)], False, "reading fell by 2.5 points; the rule allows 2"),
        ([public("rte", "accuracy", 0.5, 0.4, 1.0), fell(1.0)], False, "no benchmark fell by more than the 2 points"),
        (
            [unscored(None, 0.5)],
            False,
            "quac: f1 of the new policy is unknown, because no item had a score; the rule lets it fall by 1 points, and "
            "nothing shows that it did not fall further",
        ),
        ([unscored(None, None)], False, "f1 of the new policy and of the one before is unknown"),
        ([unscored(0.5, None), fell(0.0)], False, "f1 of the one before is unknown"),
    ],
)
def test_public_benchmarks_in_the_rule(benchmarks: list[RoundBenchmark], accepted: bool, words: str) -> None:
    found, reasons = verdict(wins(0.55, 0.51, 0.59), benchmarks, confidence=0.95, largest_drop=2.0)
    assert found == accepted
    assert words in " / ".join(reasons)
    assert "no benchmark was measured" not in " / ".join(reasons)


def test_a_benchmark_without_a_score_is_null_and_said_to_be_unknown() -> None:
    def score(model: str, value: float) -> SeriesScore:
        estimate = Estimate(value, math.nan, math.nan, 0, math.nan)
        return SeriesScore(
            model=model, series="quac.zero-shot", metric="f1", estimate=estimate, num_items=2, num_unscored=2,
            num_cut=0, num_unfinished=0, num_empty=0,
        )  # fmt: skip

    scores = {("policy", "quac"): score("policy", math.nan), ("current", "quac"): score("current", 0.5)}
    row = _row("quac", 1.0, scores, Estimate(math.nan, math.nan, math.nan, 0, math.nan))
    assert row == within(
        {"name": "quac", "metric": "f1", "policy": None, "against": 0.5, "drop": None, "allowed": 1.0}, None, None
    )
    json.dumps(row, allow_nan=False)
    assert (_change_in_points(row), _change_in_points(public("rte", "accuracy", 0.5, 0.6, 1.0))) == ("unknown", "+10.0")


def test_a_round_with_public_benchmarks_has_a_stage_for_them_until_it_is_over(tmp_path: Path) -> None:
    config = RoundsConfig(benchmarks={"rte": 2.0})
    rows = rows_of_round(opened(), config, with_text=True, new_demonstrations=False)
    names = [row.name for row in rows]
    assert names[-3:] == ["benchmarks_2", "compare_2", "decide_2"]
    assert rows[-1].needs["benchmarks"] == "benchmarks_2"
    assert all(
        "benchmarks" not in row.needs
        for row in rows_of_round(opened(), RoundsConfig(), with_text=True, new_demonstrations=False)
    )
    assert with_rule(config, None) == config
    (tmp_path / "rule.json").write_text('{"confidence": 0.95, "largest_drop": 2.0}')
    assert with_rule(config, tmp_path).benchmarks == {}
    (tmp_path / "rule.json").write_text('{"confidence": 0.95, "largest_drop": 2.0, "benchmarks": {"sst": 1.0}}')
    assert with_rule(config, tmp_path).benchmarks == {"sst": 1.0}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("squad", "names no benchmark"),
        ("rte.five-shot", "names no benchmark"),
        ("rte.", "names no benchmark"),
        ("cnn_dm.few-shot", "names no benchmark"),
        ("truthfulqa", "TruthfulQA cannot be in the rule"),
        ("winogender", "Winogender cannot be in the rule"),
    ],
)
def test_benchmarks_that_a_rule_cannot_have(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        task_and_setting(name, Path("heedful.toml"))
    assert "squad_v2, squad_v2.few-shot" in str(error.value)


def test_benchmarks_that_a_rule_can_have() -> None:
    assert [(task.name, setting) for task, setting in (task_and_setting(n, Path()) for n in ("drop", "drop.few-shot"))] == [
        ("drop", "zero-shot"),
        ("drop", "few-shot"),
    ]
    for points in (-1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="benchmarks: rte is out of range"):
            RoundsConfig(benchmarks={"rte": points})


def test_settings_out_of_range() -> None:
    for wrong in ({"ensemble": 1}, {"confidence": 1.0}, {"sft_share": 1.5}, {"prompts": 0}, {"largest_drop": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            RoundsConfig(**wrong)  # pyright: ignore[reportArgumentType]


# ---------------------------------------------------------------------------------------------------- votes


def vote(choice: str, position: int | None) -> list[dict[str, Any]]:
    about = {"prompt_id": "p", "labeler": "me", "phase": "training", "metadata": {"source": "playground"}}
    answer = {"choice": choice, "position": position, "models": ["a", "b", "c"], "gave_away": []}
    answers = [{"kind": "response", "id": f"p-{i}", "prompt_id": "p", "model": "m"} for i in range(3)]
    edit = {"kind": "response", "id": "edited-p-0", "prompt_id": "p", "model": "human"}
    return [*answers, edit, {"kind": "annotation", "task_kind": "vote", "id": "vote-p", "answer": answer, **about}]


def test_a_vote_for_an_answer_prefers_it_to_all_others_and_ties_those() -> None:
    (ranking,) = votes_as_rankings(vote("answer", 1))
    assert (ranking["response_ids"], ranking["ranks"]) == (["p-0", "p-1", "p-2"], [2, 1, 2])
    assert (ranking["labeler"], ranking["phase"], ranking["metadata"]["source"]) == ("me", "training", "playground")


@pytest.mark.parametrize("choice", ["tie", "bad"])
def test_other_votes_hold_no_comparison(choice: str) -> None:
    assert list(votes_as_rankings(vote(choice, None))) == []
