"""results.json: the same values give the same bytes, and what does not fit is refused with its place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tests.evaluate.invented import invented_results, invented_timings, minimal_results

from heedful.errors import DataError, MissingError, StorageError
from heedful.evaluate.results import Estimate, Results, as_estimate
from heedful.evaluate.results_file import check_results, check_timings, load_results, load_timings, save_results, save_timings
from heedful.statistics import wilson

HALF: Estimate = {"value": 0.5, "low": 0.4, "high": 0.6, "count": 10}


def _backwards(value: Any) -> Any:
    """The same object with every key inserted in the opposite order."""
    if isinstance(value, dict):
        return {key: _backwards(item) for key, item in reversed(cast(dict[str, Any], value).items())}
    return [_backwards(item) for item in cast(list[Any], value)] if isinstance(value, list) else value


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    save_results(tmp_path / "new" / "results.json", invented_results())
    loaded = load_results(tmp_path / "new" / "results.json")
    assert set(loaded) == set(invented_results())
    save_results(tmp_path / "again.json", loaded)
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "new" / "results.json").read_bytes()
    save_timings(tmp_path / "timings.json", invented_timings())
    assert load_timings(tmp_path / "timings.json") == invented_timings()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["results.json"]  # nothing was left aside


def test_key_order_numpy_types_and_last_bits_change_nothing(tmp_path: Path) -> None:
    results = minimal_results()
    results["reward_model"] = {
        "accuracy": 0.7,
        "low": 0.6,
        "high": 0.8,
        "num_comparisons": 10,
        "by_group": {},
        "agreement": {},
        "agreement_with_reward_model": {},
        "longer_wins": HALF,
        "shorter_wins": HALF,
        "by_k": {"9": HALF, "4": {**HALF, "high": 0.3}},
        "calibration_error": 1e-7,
    }
    save_results(tmp_path / "one.json", results)
    other = _backwards(results)
    other["reward_model"] |= {"accuracy": np.float32(0.7), "num_comparisons": np.int64(10)}
    other["reward_model"]["by_k"]["4"]["high"] = 0.1 + 0.2
    save_results(tmp_path / "other.json", other)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "other.json").read_bytes()
    assert json.loads((tmp_path / "one.json").read_text())["reward_model"]["calibration_error"] == 1e-7  # small is not zero


def test_an_estimate_takes_its_json_form() -> None:
    low, high = pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4)  # Wilson's interval for 5 of 10
    assert as_estimate(wilson(5, 10)) == {"value": 0.5, "low": low, "high": high, "count": 10}


def test_a_number_that_is_not_finite_becomes_null_where_null_is_allowed(tmp_path: Path) -> None:
    results = minimal_results()
    results["curves"] = {"ppo": [{"iteration": 0, "explained_variance": float("nan"), "kl": float("inf")}]}
    save_results(tmp_path / "results.json", results)
    loaded = load_results(tmp_path / "results.json")
    assert loaded.get("curves") == {"ppo": [{"iteration": 0, "explained_variance": None, "kl": None}]}
    results["sft_checkpoints"] = [{"epoch": 1, "validation_loss": float("nan"), "reward": 0.0, "chosen": True}]
    with pytest.raises(DataError, match=r"expected a finite number, got None @ \$\.sft_checkpoints\[0\]\.validation_loss"):
        save_results(tmp_path / "results.json", results)
    assert load_results(tmp_path / "results.json") == loaded  # the old file is whole


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"seed": 1.5}, r"expected a whole number, got 1\.5 @ \$\.seed"),
        ({"seed": True}, r"expected a whole number, got True @ \$\.seed"),
        ({"labelers": "robots"}, r"robots not in .*simulated.* @ \$\.labelers"),
        ({"ratingz": []}, "ratingz"),
        ({"curves": {"sft": [{"step": 1, "loss": float("nan")}]}}, r"expected a finite number, got nan @ \$\.curves"),
        ({"models": [{"name": "base"}]}, r"missing key 'label' @ \$\.models\[0\]\.label"),
        (
            {"sft_checkpoints": [{"epoch": 1, "validation_loss": "2", "reward": 0, "chosen": 1}]},
            r"got '2' @ \$\.sft_checkpoints\[0\]",
        ),
        (
            {"transcripts": [{"prompt": None, "use_case": "chat", "responses": []}]},
            r"expected text, got None @ \$\.transcripts\[0\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(change: dict[str, Any], place: str) -> None:
    with pytest.raises(DataError, match=place):
        check_results({**minimal_results(), **change})


@pytest.mark.parametrize("value", [[], "text", None, {}])
def test_something_else_entirely_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="not a valid Results object"):
        check_results(value)
    with pytest.raises(DataError, match="not a valid Timings object"):
        check_timings(value)


@pytest.mark.parametrize("section", ["preference", "ratings", "benchmarks", "transcripts"])
def test_a_model_that_is_not_in_the_list_is_named(section: str) -> None:
    results = {**minimal_results(), section: cast(dict[str, Any], invented_results())[section]}
    with pytest.raises(DataError, match="ppo_ptx"):
        check_results(results)


def test_files_that_cannot_be_read_are_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="heedful align"):
        load_results(tmp_path / "results.json")
    (tmp_path / "results.json").write_text('{"seed": 0,', encoding="utf-8")
    with pytest.raises(DataError, match=r"is not JSON[\s\S]*line 1[\s\S]*results\.json"):
        load_results(tmp_path / "results.json")
    (tmp_path / "results.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(DataError, match="UTF-8"):
        load_results(tmp_path / "results.json")


def test_a_disk_that_refuses_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    save_results(path, minimal_results())
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    changed: Results = {**minimal_results(), "seed": 9}
    with pytest.raises(StorageError, match="No space left"):
        save_results(path, changed)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]
