"""The benchmarks' own arithmetic, and that they run; what they measure is no test's business (the machine may be busy)."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))  # where `python bench/sft.py` finds them
driver: Any = importlib.import_module("_driver")
worker: Any = importlib.import_module("_worker")
workload: Any = importlib.import_module("_workload")
generation: Any = importlib.import_module("generation")
gpu: Any = importlib.import_module("gpu")


@pytest.mark.slow
def test_sft_runs_and_reports(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "sft.py"), "--quick", "--only-ours", "--out", str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "sft.json").read_text())
    row = result["cases"][0]["contenders"]["Heedful"]
    assert result["quick"] is True
    assert result["machine"]["cores"] == os.cpu_count()
    assert row["versions"]["torch"] == result["machine"]["torch"]
    assert row["rate"] > 0
    assert row["peak_mib"] > row["resident_after_imports_mib"]
    assert 0 < row["share_of_matmul_rate"] < 1
    # Random weights with logits of deviation 1: the mean loss is near log(8192) + 1/2.
    assert row["details"]["loss_before"] == pytest.approx(9.5, abs=0.3)
    assert row["details"]["loss_after_one_step"] < row["details"]["loss_before"]
    assert row["details"]["loss_after"] < row["details"]["loss_before"]
    table = (tmp_path / "sft.md").read_text()
    assert "| XS | batch 32 | Heedful |" in table
    assert "measures nothing" in table


def test_forward_flop_by_hand() -> None:
    size = workload.Size(layers=2, width=2, heads=1)
    # A layer: 12 w² weights, 2 operations each, of which 2 w² are keys and values. Attention: 2 products of width w per pair.
    # Logits: w x 8192 each. The last layer is computed of 2 tokens, which see 5 keys; its keys and values of all 3.
    found = workload.forward_flop(size, tokens=3, attended=6, read=2, attended_by_read=5, unembedded=2)
    assert found == (3 * 96 + 6 * 8) + (3 * 16 + 2 * 80 + 5 * 8) + 2 * 2 * 2 * 8192


def test_useful_flop_by_hand() -> None:
    size = workload.Size(layers=1, width=2, heads=1)
    flop = workload.forward_flop
    rows = [{"prompt": [5, 6], "response": [7]}, {"prompt": [5], "response": [7, 0]}]
    # Read where a response token is predicted: after 2 tokens, and after 1 and 2.
    expected = flop(size, tokens=6, attended=12, read=3, attended_by_read=5, unembedded=3)
    assert workload.sft_flop(size, rows) == 3 * expected
    assert workload.generation_flop(size, [(2, 1), (1, 2)]) == expected
    # Prompt of 2 (3 pairs) once; responses of 1 and 3 see it and themselves: 2 + 1 and 6 + 6 pairs. Scores after 3 and 5.
    ranking = {"prompt": [5, 6], "responses": [[7], [8, 9, 0]], "ranks": [1, 2]}
    assert workload.reward_flop(size, [ranking]) == 3 * flop(size, tokens=6, attended=18, read=2, attended_by_read=8)


def test_flop_of_a_model_with_gated_blocks_by_hand() -> None:
    config = {"hidden_size": 4, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 3}
    config |= {"intermediate_size": 5, "vocab_size": 7}
    size = workload.size_of(config)
    # A layer: queries and output 4 x 4 each, keys and values 4 x 2 each, three products of 4 x 5.
    assert (size.block, size.keys_and_values) == (2 * 16 + 2 * 8 + 3 * 20, 2 * 8)
    # A prompt of 2 and 2 new tokens: 4 tokens through two layers, which see 1 + 2 + 3 + 4 keys. In the last layer only keys
    # and values of all 4; the rest of the 2 tokens that are read, which see 2 + 3 keys. 2 rows of logits.
    last = 2 * 16 * 4 + 2 * (108 - 16) * 2 + 4 * 4 * 5
    assert workload.generation_flop(size, [(2, 2)]) == 2 * (2 * 108 * 4 + 4 * 4 * 10) + last + 2 * 4 * 7 * 2


def test_prompts_for_a_model_are_words_and_the_same_each_time() -> None:
    rows = generation.model_prompts(2_000, 50)
    assert rows == generation.model_prompts(2_000, 50)
    assert {len(row) for row in rows} <= set(range(32, 65))
    assert all(1_000 <= token < 2_000 for row in rows for token in row)


def test_pairs_are_all_comparisons() -> None:
    ranking = {"prompt": [5], "responses": [[7], [8], [9]], "ranks": [2, 3, 1]}
    assert workload.pairs([ranking]) == [
        {"chosen_ids": [5, 7], "rejected_ids": [5, 8]},
        {"chosen_ids": [5, 9], "rejected_ids": [5, 7]},
        {"chosen_ids": [5, 9], "rejected_ids": [5, 8]},
    ]


def test_data_has_the_stated_lengths_and_is_the_same_each_time() -> None:
    rows = workload.examples(300)
    assert rows == workload.examples(300)
    assert {len(r["prompt"]) for r in rows} <= set(range(16, 129))
    assert {len(r["response"]) for r in rows} <= set(range(8, 65))
    assert all(r["response"][-1] == workload.END and workload.END not in r["prompt"] for r in rows)


def test_time_runs_from_the_beginning_to_the_last_step_and_missing_steps_are_refused() -> None:
    timing = worker.Timing()
    with pytest.raises(RuntimeError, match="expected a beginning and 0 steps"):
        timing.result(0)
    time.sleep(0.1)
    begin = time.perf_counter()
    timing.begin()
    timing.end(0)
    time.sleep(0.4)
    timing.end(1)
    end = time.perf_counter()
    time.sleep(0.1)
    timing.end(1)  # a second line of the same step changes nothing
    assert 0.4 <= timing.result(2)["seconds"] <= end - begin + 0.05
    assert 0 <= timing.result(2)["cpu_seconds"] < 0.3  # it slept
    with pytest.raises(RuntimeError, match="expected a beginning and 3 steps, got 2"):
        timing.result(3)


def test_processes_that_a_contender_starts_count_and_ended_ones_do_not() -> None:
    """An ended process keeps its number until it is waited for, and has no peak of memory."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as one:
        assert worker.peak_of_descendants_mib() >= worker.resident_mib("VmHWM", str(one.pid)) > 0
        one.kill()
        os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(RuntimeError, match="no VmHWM"):
            worker.resident_mib("VmHWM", str(one.pid))
        assert worker.peak_of_descendants_mib() >= 0


class FakeWorker:
    """Answers at once; "slow" takes twice the time, "broken" cannot run."""

    asked: list[tuple[str, dict[str, Any]]]

    def __init__(self, contender: Any, folder: Path, threads: int) -> None:
        self.contender, self.hello = contender, {"versions": {}, "resident_mib": 1.0}

    def greet(self) -> None: ...

    def close(self) -> None: ...

    def ask(self, **changes: Any) -> dict[str, Any]:
        name = self.contender.name
        FakeWorker.asked.append((name, self.contender.request | changes))
        if name == "broken":
            return {"error": "no compiler"}
        if name == "matmul":
            return {"flop_per_second": 1.0, "by_size": {}}
        request = self.contender.request | changes
        return {"seconds": 2.0 if name == "slow" else 1.0, "peak_mib": 1.0, "loss_after": 9.5 / request["steps"]}


def test_one_step_warms_up_one_run_chooses_the_best_and_only_that_one_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeWorker.asked = []
    monkeypatch.setattr(driver, "Worker", FakeWorker)
    columns = {"ours": "heedful", "theirs": "default", "slow": "best", "fast": "best", "broken": "best"}
    contenders = [driver.Contender(n, column, "", {"steps": 9}, warm_up={"steps": 1}) for n, column in columns.items()]
    case = driver.Case(size="S", label="l", unit="u", contenders=contenders, prepare=lambda _: None, work=lambda _: 6.0)
    found = driver._run_case(case, Path(), argparse.Namespace(threads=1, runs=5, quick=False))
    steps = {name: [request["steps"] for who, request in FakeWorker.asked if who == name] for name in columns}
    assert steps == {"ours": [1] + 5 * [9], "theirs": [1] + 5 * [9], "slow": [1, 9], "fast": [1] + 6 * [9], "broken": [1]}
    assert found["tried_for_best"] == {"slow": 3.0, "fast": 6.0}
    assert found["failed"] == {"broken": "no compiler"}
    assert list(found["contenders"]) == ["ours", "theirs", "fast"]
    assert len(found["contenders"]["ours"]["rates"]) == 5
    assert found["contenders"]["ours"]["details"]["loss_after_one_step"] == 9.5


def test_the_fastest_of_each_group_is_counted_and_processes_stay_for_the_next_case(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeWorker.asked, made = [], []
    monkeypatch.setattr(driver, "Worker", lambda *arguments: made.append(arguments[0].name) or FakeWorker(*arguments))
    groups = {"ours": "", "fast": "a", "slow": "a", "alone": "b"}
    contenders = [
        driver.Contender(name, "heedful" if name == "ours" else "best", "", {"steps": 1}, group=group)
        for name, group in groups.items()
    ]
    case = driver.Case(size="S", label="l", unit="u", contenders=contenders, prepare=lambda _: None, work=lambda _: 6.0)
    chosen, kept = argparse.Namespace(threads=1, runs=2, quick=False), {}
    for _ in range(2):
        found = driver._run_case(case, Path(), chosen, kept)
        assert list(found["contenders"]) == ["ours", "fast", "alone"]
    assert made == ["ours", "fast", "slow", "alone", "matmul"]
    assert set(kept) == set(made)


def test_alone_each_run_has_a_warm_process_and_no_other_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """What several trainers hold between their runs would not fit beside a large model."""
    FakeWorker.asked, there, most = [], set(), []

    class Counted(FakeWorker):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            there.add(self)
            most.append(len(there))

        def close(self) -> None:
            there.remove(self)

    monkeypatch.setattr(driver, "Worker", Counted)
    columns = {"ours": "heedful", "theirs": "default", "slow": "best", "fast": "best", "broken": "best"}
    contenders = [driver.Contender(n, column, "", {"steps": 9}, warm_up={"steps": 1}) for n, column in columns.items()]
    case = driver.Case(size="S", label="l", unit="u", contenders=contenders, prepare=lambda _: None, work=lambda _: 6.0)
    found = driver._run_case(case, Path(), argparse.Namespace(threads=1, runs=2, quick=False), alone=True)
    assert max(most) == 1
    assert not there
    steps = {name: [request["steps"] for who, request in FakeWorker.asked if who == name] for name in columns}
    assert steps == {
        "ours": [1, 1, 9, 1, 9],
        "theirs": [1, 1, 9, 1, 9],
        "slow": [1, 9],
        "fast": [1, 9, 1, 9, 1, 9],
        "broken": [1],
    }
    assert found["failed"] == {"broken": "no compiler"}
    assert list(found["contenders"]) == ["ours", "theirs", "fast"]
    assert len(found["contenders"]["ours"]["rates"]) == 2


def test_the_gpu_run_goes_through_all_parts_and_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the models: a part that fails is named, the next one begins in a new process, and nothing begins too late."""
    started, now = [], [0.0]

    class Asked:
        def __init__(self, contender: Any, folder: Path, threads: int) -> None:
            started.append(contender.name)
            self.folder = folder

        def greet(self) -> None: ...

        def close(self) -> None: ...

        def kill(self) -> None: ...

        def ask(self, **request: Any) -> dict[str, Any]:
            kind = request["do"]
            now[0] += 10.0
            if kind == "reward" and len(json.loads((self.folder / "rankings.json").read_text())[0]["responses"]) == 4:
                return {"error": "CUDA out of memory"}
            answer = {
                "seconds": 2.0,
                "flop_per_second": 1e12,
                "lengths": [8] * 8,
                "device": "CPU",
                "parts": {"generation": 1.0},
            }
            return answer | {"peak_gpu_mib": 7.0}

    monkeypatch.setattr(gpu, "WorkerProcess", Asked)
    monkeypatch.setattr(gpu, "is_ready", lambda name: False)
    monkeypatch.setattr(gpu, "save_models", lambda size, folder: None)
    monkeypatch.setattr(gpu, "tests", lambda tiny, seconds: {"said": "20 passed"})
    monkeypatch.setattr(gpu.time, "monotonic", lambda: now[0])
    result = gpu.run(True, tmp_path, 100.0)
    assert json.loads((tmp_path / "gpu.json").read_text()) == result
    kinds = {name: next(iter(part)) for name, part in result["parts"].items()}
    assert kinds == {
        "tests": "said",
        "XS: device": "seconds",
        "XS: SFT": "unit",
        "XS: reward model, K = 4": "error",
        "XS: reward model, K = 9": "unit",
        "XS: generation, 8 requests": "unit",
        "XS: PPO": "left_out",
        "XS: vLLM": "left_out",
    }
    assert started == ["Heedful", "Heedful"]
    part = result["parts"]["XS: SFT"]
    assert part["share_of_matmul_rate"] == pytest.approx(part["useful_flop_per_second"] / 1e12)
    text = (tmp_path / "gpu.md").read_text()
    assert "FAILED: CUDA out of memory" in text
    assert "measures nothing" in text


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_gpu_run_works_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "bench" / "gpu.py"), "--tiny", "--out", str(tmp_path)]
    subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert "20 passed" in parts["tests"]["said"]
    for name in ("SFT", "reward model, K = 4", "reward model, K = 9", "generation, 8 requests", "PPO"):
        assert parts[f"XS: {name}"]["rate"] > 0


def test_a_machine_that_others_use_is_seen_at_once() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinning:
        time.sleep(0.3)
        busy = driver.busy_processors()
        spinning.kill()
    assert driver.BUSY < busy <= (os.cpu_count() or 1)


def test_make_bench_runs_what_compares_with_another_side_and_nothing_else() -> None:
    done = subprocess.run(["make", "-n", "bench"], cwd=ROOT, capture_output=True, text=True, check=True)
    started = set(re.search(r"for name in ([\w ]+);", done.stdout)[1].split())  # pyright: ignore[reportOptionalSubscript]
    scripts = [path for path in (ROOT / "bench").glob("*.py") if not path.name.startswith("_")]
    assert started == {path.stem for path in scripts if re.search(r"from _driver import .*\bmeasure\b", path.read_text())}
    assert {path.stem for path in scripts} - started == {"console", "console_database", "coverage", "gpu", "serving"}


def row(column: str, rates: list[float], peak: float = 100.0, **details: Any) -> dict[str, Any]:
    return {"column": column, "rates": rates, "rate": sorted(rates)[len(rates) // 2], "peak_mib": peak, "details": details}


def test_ratios_are_ours_over_theirs() -> None:
    rows = {"Heedful": row("heedful", [10, 30, 20], 50), "other": row("default", [5, 10, 4])}
    assert driver._ratios(rows) == {
        "other": {"column": "default", "ratio": 4.0, "least": 2.0, "greatest": 5.0, "peak_memory_ratio": 0.5}
    }


def test_work_that_differs_is_said(tmp_path: Path) -> None:
    rows = {"Heedful": row("heedful", [1], loss=9.0, text=[[1, 2]]), "other": row("default", [2], loss=9.2, text=[[1, 3]])}
    for each in rows.values():
        each["resident_after_imports_mib"] = 10.0
    case = driver.Case(
        size="S",
        label="some",
        unit="u",
        contenders=[],
        prepare=lambda _: None,
        work=lambda _: 1.0,
        agree={"loss": 0.1, "text": 0.0},
    )
    same = driver._same_work(case, rows)
    assert not same["loss"]["agree"]
    assert not same["text"]["agree"]
    case.agree["loss"] = 0.3
    assert driver._same_work(case, rows)["loss"]["agree"]
    result = {
        "title": "t",
        "quick": False,
        "runs": 1,
        "threads": 1,
        "machine": {"cpu": "c", "cores": 1},
        "begun": "now",
        "busy_at_start": 0.0,
        "cases": [
            {
                "size": "S",
                "label": "some",
                "unit": "u",
                "contenders": rows,
                "ratios": driver._ratios(rows),
                "failed": {},
                "same_work": same,
            }
        ],
    }
    table = driver.table(result)
    assert "loss DOES NOT AGREE" in table
    assert "was busy" not in table
    assert "was busy" in driver.table(result | {"busy_at_start": 1.0})
    assert "slower than other (0.50)" in table
