"""One run on a GPU, under ten minutes: its tests, then speed and memory of every loop (``make gpu``).

The parts that matter most come first, and the results are written after each of them: a run that is interrupted keeps what it
had. A part that fails or takes too long is named, and the next one begins. ``--tiny`` runs the same parts on the smallest
model, on a CPU too: it shows that everything works and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _driver import BENCH, Answer, Contender, commit, machine
from _driver import Worker as WorkerProcess
from _setup import is_ready, python_of
from _workload import SIZES, examples, generation_flop, pairs, prompts, rankings, reward_flop, save_models, sft_flop, write

BUDGET_SECONDS = 570
TESTS_SECONDS = 150
PART_SECONDS = 90


@dataclass(frozen=True)
class Work:
    """How much of each part a size gets."""

    sft: tuple[int, int]
    """Examples of a step, and steps."""
    rankings: int
    """Ranked prompts of a step."""
    batches: tuple[int, ...]
    """Requests at once, of a generation."""
    episodes: int
    """Of a PPO iteration."""
    tokens: int = 64


WORK = {
    "M": Work((256, 5), 32, (8, 64, 256), 256),
    "1.3B": Work((128, 4), 16, (8, 64, 256), 128),
    "S": Work((256, 5), 32, (8, 64, 256), 256),
}
TINY = {"XS": Work((8, 2), 2, (8,), 16, tokens=8)}


@dataclass(frozen=True)
class Part:
    """One request to a size's process. work: what a run does, in ``unit``. flop: its useful FLOP."""

    name: str
    unit: str
    request: dict[str, Any]
    work: Callable[[Answer], float]
    flop: Callable[[Answer], float] | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="the smallest model, on any machine; not a measurement")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results (bench/results)")
    parser.add_argument("--seconds", type=float, default=BUDGET_SECONDS, help="no part begins after this time")
    chosen = parser.parse_args()
    out = chosen.out or (Path(tempfile.mkdtemp(prefix="bench-")) if chosen.tiny else BENCH / "results")
    result = run(chosen.tiny, out, chosen.seconds)
    print(table(result))
    print(out / "gpu.json")
    if any("error" in part for part in result["parts"].values()):
        raise SystemExit(1)


def run(tiny: bool, out: Path, seconds: float) -> dict[str, Any]:
    begun = time.monotonic()
    result: dict[str, Any] = {
        "benchmark": "gpu",
        "tiny": tiny,
        "machine": machine(),
        "heedful_commit": commit(),
        "begun": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "parts": {},
    }

    def keep(name: str, answer: dict[str, Any]) -> None:
        result["parts"][name] = answer
        out.mkdir(parents=True, exist_ok=True)
        for suffix, text in ((".json", json.dumps(result, indent=1) + "\n"), (".md", table(result) + "\n")):
            (out / f"gpu{suffix}.tmp").write_text(text, encoding="utf-8")
            os.replace(out / f"gpu{suffix}.tmp", out / f"gpu{suffix}")
        print(f"{time.monotonic() - begun:5.0f} s  {name}: {_short(answer)}", flush=True)

    def left() -> float:
        return seconds - (time.monotonic() - begun)

    keep("tests", tests(tiny, min(TESTS_SECONDS, left())))
    for size, work in (TINY if tiny else WORK).items():
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            measure_size(size, work, Path(folder), keep, left)
    return result


def tests(tiny: bool, seconds: float) -> dict[str, Any]:
    """The tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu"]
    root = BENCH.parent
    env = os.environ | {"PYTHONPATH": f"{root / 'src'}:{root}"} | ({"HEEDFUL_GPU_TESTS": "cpu"} if tiny else {})
    try:
        done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"error": f"the tests were not done after {seconds:.0f} s"}
    *_, last = done.stdout.strip().splitlines() or [""]
    return {"said": last} if done.returncode == 0 else {"error": done.stdout[-3_000:] + done.stderr[-1_000:]}


def measure_size(
    size: str, work: Work, folder: Path, keep: Callable[[str, dict[str, Any]], None], left: Callable[[], float]
) -> None:
    """Every part of one size, in one process, which is started again after a part that failed."""
    if left() <= 0:
        keep(f"{size}", {"left_out": "no time was left"})
        return
    data = make_data(size, work, folder)
    worker: WorkerProcess | None = None
    rate: float | None = None
    for part in parts(size, work, data):
        name = f"{size}: {part.name}"
        if left() <= 0:
            keep(name, {"left_out": "no time was left"})
            continue
        if worker is None:
            worker = WorkerProcess(Contender("Heedful", "heedful", "_worker_gpu.py", {}), folder, os.cpu_count() or 1)
            worker.greet()
            described = worker.ask(do="describe")
            rate = worker.ask(do="matmul").get("flop_per_second")
            keep(f"{size}: device", described | {"bf16_matmul_flop_per_second": rate})
        answer = ask(worker, part.request, min(PART_SECONDS, left()))
        if "error" in answer:
            worker.close()
            worker = None
        keep(name, summary(part, answer, rate))
    if worker is not None:
        worker.close()
    keep(f"{size}: vLLM", beside_vllm(work, folder, left))


def make_data(size: str, work: Work, folder: Path) -> dict[str, Any]:
    """Models and data of a size, in its folder."""
    save_models(SIZES[size], folder)
    batch, steps = work.sft
    data: dict[str, Any] = {
        "examples": examples(batch * steps),
        "check": examples(8, seed=9),
        "prompts": prompts(max(*work.batches, work.episodes)),
    }
    write(folder, **data)
    return data


def parts(size: str, work: Work, data: dict[str, Any]) -> Iterator[Part]:
    """Each is asked twice where the first run warms up."""
    batch, steps = work.sft
    tokens = sum(len(row["prompt"]) + len(row["response"]) for row in data["examples"])
    flop = sft_flop(SIZES[size], data["examples"])
    yield Part("SFT", "tokens/s", {"do": "sft", "steps": steps, "batch_size": batch}, lambda _: tokens, lambda _: flop)
    for k in (4, 9):
        yield reward_part(size, work, k)
    for count in work.batches:
        rows = data["prompts"][:count]
        mean = round(sum(map(len, rows)) / count)
        request = {"do": "generation", "batch_size": count, "max_tokens": work.tokens, "stop": False, "seed": 1, "count": count}
        yield Part(
            f"generation, {count} requests",
            "new tokens/s",
            request,
            lambda answer: float(sum(answer["lengths"])),
            lambda answer, mean=mean: generation_flop(SIZES[size], [(mean, new) for new in answer["lengths"]]),
        )
    request = {"do": "ppo", "steps": 2, "batch_size": work.episodes, "minibatches": 4, "max_tokens": work.tokens}
    yield Part("PPO", "episodes/s", request | {"ptx": 0, "ptx_tokens": 128}, lambda _: 2.0 * work.episodes)


def reward_part(size: str, work: Work, k: int) -> Part:
    steps = 3
    *rows, check = rankings(work.rankings * steps + 1, k)
    comparisons = k * (k - 1) // 2 * work.rankings * steps
    request = {"do": "reward", "steps": steps, "batch_size": work.rankings}
    data = {"rankings": rows, "pairs": pairs(rows[:1]), "check": [check], "check_pairs": pairs([check])}
    flop = reward_flop(SIZES[size], rows)
    return Part(f"reward model, K = {k}", "comparisons/s", request | {"data": data}, lambda _: comparisons, lambda _: flop)


def ask(worker: WorkerProcess, request: dict[str, Any], seconds: float) -> Answer:
    """A counted run after one that warms up; the process is ended if both are not done in time."""
    request = dict(request)
    if data := request.pop("data", None):
        write(worker.folder, **data)
    timer = threading.Timer(seconds, worker.kill)
    timer.start()
    begun = time.monotonic()
    try:
        first = worker.ask(**request)
        answer = first if "error" in first else worker.ask(**request)
    finally:
        timer.cancel()
    if "error" in answer and time.monotonic() - begun >= seconds:
        return {"error": f"not done after {seconds:.0f} s"}
    return answer


def summary(part: Part, answer: Answer, rate: float | None) -> dict[str, Any]:
    if "error" in answer:
        return {"error": answer["error"]}
    found: dict[str, Any] = {"unit": part.unit, "rate": part.work(answer) / answer["seconds"], "seconds": answer["seconds"]}
    if part.flop is not None:
        found["useful_flop_per_second"] = part.flop(answer) / answer["seconds"]
        found["share_of_matmul_rate"] = None if not rate else found["useful_flop_per_second"] / rate
    kept = ("peak_gpu_mib", "peak_mib", "parts", "optimiser_steps", "response_tokens", "steps")
    return found | {name: answer[name] for name in kept if name in answer}


def beside_vllm(work: Work, folder: Path, left: Callable[[], float]) -> dict[str, Any]:
    """The same requests to vLLM, where its environment is made (``python bench/_setup.py vllm``)."""
    if not is_ready("vllm"):
        return {"left_out": "vLLM is not installed (python bench/_setup.py vllm)"}
    if left() <= 0:
        return {"left_out": "no time was left"}
    settings = {"eager": True, "bind": "nobind"}
    worker = WorkerProcess(Contender("vLLM", "best", "_worker_vllm.py", {}, python_of("vllm")), folder, os.cpu_count() or 1)
    try:
        worker.greet()
        found: dict[str, Any] = {"unit": "new tokens/s"}
        for count in work.batches:
            request = {"do": "generation", "batch_size": count, "max_tokens": work.tokens, "stop": False, "seed": 1}
            answer = ask(worker, request | {"count": count, "settings": settings}, min(2 * PART_SECONDS, max(left(), 1.0)))
            if "error" in answer:
                return found | {"error": answer["error"]}
            found[f"{count} requests"] = sum(answer["lengths"]) / answer["seconds"]
        return found
    finally:
        worker.close()


def table(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["# Heedful on a GPU", "", f"{result['begun']}, commit {result['heedful_commit']}.", ""]
    if result["tiny"]:
        lines += ["**A tiny run: it shows that everything works and measures nothing.**", ""]
    lines += ["| part | rate | unit | share of the bf16 matmul rate | peak GPU MiB |", "| --- | ---: | --- | ---: | ---: |"]
    notes: list[str] = []
    for name, part in result["parts"].items():
        if "rate" in part:
            share = part.get("share_of_matmul_rate")
            cells = (name, f"{part['rate']:,.1f}", part["unit"], "" if share is None else f"{share:.0%}")
            lines.append("| " + " | ".join([*cells, f"{part.get('peak_gpu_mib', 0):,.0f}"]) + " |")
            if "parts" in part:
                shares = ", ".join(f"{what} {seconds / part['seconds']:.0%}" for what, seconds in part["parts"].items())
                notes.append(f"- {name}, share of the time: {shares}")
        else:
            notes.append(f"- {name}: {_short(part)}")
    notes += [f"- {note}" for note in cost_ratios(result["parts"])]
    return "\n".join([*lines, "", *notes])


def cost_ratios(parts_: dict[str, Any]) -> Iterator[str]:
    """What a prompt with nine ranked responses (36 comparisons) costs over one with four (6 comparisons)."""
    for name, nine in parts_.items():
        size, _, what = name.partition(": ")
        four = parts_.get(f"{size}: reward model, K = 4", {})
        if what == "reward model, K = 9" and "rate" in nine and "rate" in four:
            ratio = (36 / nine["rate"]) / (6 / four["rate"])
            yield f"{size}: a prompt with nine ranked responses costs {ratio:.2f} times one with four"


def _short(answer: dict[str, Any]) -> str:
    if "error" in answer:
        return "FAILED: " + answer["error"].strip().splitlines()[-1]
    if "rate" in answer:
        return f"{answer['rate']:,.1f} {answer['unit']}"
    return ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{value}" for name, value in answer.items())


if __name__ == "__main__":
    main()
