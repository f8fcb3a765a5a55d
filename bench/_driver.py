"""Runs contenders against each other, in turn and each in its own process, and writes one JSON file and one table.

docs/benchmarks.md says what is timed, what warm-up means and how ratios are computed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from _setup import is_ready, python_of

BENCH = Path(__file__).parent
Answer = dict[str, Any]
BUSY = 0.5
"""Processes that wait or run on average; above this, the table says that the machine was busy."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One side with one set of settings.

    column: "heedful", "default" or "best" (one of several tried: the fastest of a group is counted). warm_up: what differs in
    the request of the first run, which is not counted.
    """

    name: str
    column: str
    script: str
    request: dict[str, Any]
    python: Path = Path(sys.executable)
    warm_up: dict[str, Any] = field(default_factory=dict)
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of a table.

    work: units of ``unit`` done in a run, from the run's answer. flop: useful FLOP of a run. prepare: fills the folder that all
    contenders read. agree: fields of the answers that must be equal on all sides within a tolerance, to show that the work is
    the same.
    """

    size: str
    label: str
    unit: str
    contenders: list[Contender]
    prepare: Callable[[Path], None]
    work: Callable[[Answer], float]
    flop: Callable[[Answer], float] | None = None
    agree: dict[str, float] = field(default_factory=dict)
    ratios: bool = True


def options(
    name: str, *, sizes: Sequence[str] = ("S", "M"), more: Callable[[argparse.ArgumentParser], None] | None = None
) -> argparse.Namespace:
    """The flags of every benchmark, and those that ``more`` adds."""
    parser = argparse.ArgumentParser(prog=f"bench/{name}.py")
    parser.add_argument("--sizes", default=",".join(sizes), help="XS, S and M, separated by commas")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each contender")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    parser.add_argument("--quick", action="store_true", help="one small run to see that everything works; not a measurement")
    parser.add_argument("--only-ours", action="store_true", help="leave TRL out")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results (bench/results)")
    if more is not None:
        more(parser)
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.sizes, chosen.runs = "XS", 1
    # Results of some sizes only go to files of their own.
    chosen.suffix = "" if chosen.quick or chosen.sizes == ",".join(sizes) else "-" + chosen.sizes.replace(",", "-")
    chosen.sizes = chosen.sizes.split(",")
    if getattr(chosen, "model", None) is not None:
        chosen.suffix = f"-{chosen.model.resolve().name}"
    if chosen.out is None:
        chosen.out = Path(tempfile.mkdtemp(prefix="bench-")) if chosen.quick else BENCH / "results"
    return chosen


ONE_STEP = {"steps": 1}
"""The request that warms a trainer up."""


def trl(name: str, requests: dict[str, dict[str, Any]], *, script: str, environment: str, chosen: Any) -> list[Contender]:
    """TRL's contenders: the request named "default" and those tried for its best. None with --only-ours."""
    if chosen.only_ours:
        return []
    if not is_ready(environment):
        raise SystemExit(f"bench: {BENCH}/.venvs/{environment} does not exist: run `make bench` or `python bench/_setup.py`,"
                         " or measure this side alone with --only-ours")  # fmt: skip
    return [
        Contender(
            f"{name} {label}", "default" if label == "default" else "best", script, request, python_of(environment), ONE_STEP
        )
        for label, request in requests.items()
    ]


def measure(
    name: str,
    title: str,
    cases: Iterable[Case],
    chosen: argparse.Namespace,
    *,
    one_folder: bool = False,
    alone: bool = False,
) -> dict[str, Any]:
    """Run all cases and write ``NAME.json`` and ``NAME.md`` after each, so that a stopped run keeps its results.

    one_folder: all cases read the same files, and their contenders' processes stay for the next case: some take minutes to
    start. alone: each run has a process of its own, warmed up, and no other one holds memory meanwhile, because what several
    trainers of a large model hold between their runs would not fit.
    """
    result: dict[str, Any] = {
        "benchmark": name + chosen.suffix,
        "title": title,
        "quick": chosen.quick,
        "runs": chosen.runs,
        "threads": chosen.threads,
        "machine": machine(),
        "busy_at_start": busy_processors(),
        "begun": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "heedful_commit": commit(),
        "cases": [],
    }
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that contenders' processes end too
    kept: dict[str, Worker] = {}
    with ExitStack() as stack:
        shared = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        stack.callback(lambda: [worker.close() for worker in kept.values()])
        for number, case in enumerate(cases):
            print(f"== {name}: {case.size}, {case.label}", file=sys.stderr, flush=True)
            if one_folder:
                if number == 0:
                    case.prepare(Path(shared))
                result["cases"].append(_run_case(case, Path(shared), chosen, kept))
            else:
                with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                    case.prepare(Path(folder))
                    result["cases"].append(_run_case(case, Path(folder), chosen, alone=alone))
            result["ended"] = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
            write(result, chosen.out)
    return result


def _run_case(
    case: Case, folder: Path, chosen: argparse.Namespace, kept: dict[str, Worker] | None = None, *, alone: bool = False
) -> dict[str, Any]:
    """kept: processes of earlier cases, which are used again and stay. Without it, all end with the case (alone: the run)."""
    matmul = Contender("matmul", "", "_worker_heedful.py", {"do": "matmul"})
    workers: dict[str, Worker] = {}
    hellos: dict[str, Answer] = {}

    def begin(contender: Contender) -> None:
        workers[contender.name] = worker = Worker(contender, folder, chosen.threads)
        worker.greet()
        hellos[contender.name] = worker.hello

    try:
        # All start at the same time, or each when its turn comes.
        for contender in () if alone else [*case.contenders, matmul]:
            old = (kept or {}).get(contender.name)
            workers[contender.name] = old or Worker(contender, folder, chosen.threads)
            workers[contender.name].contender = contender
        for name, worker in workers.items():
            if not worker.hello:
                worker.greet()
            hellos[name] = worker.hello
        failed: dict[str, str] = {}
        tried: dict[str, float] = {}
        first: dict[str, Answer] = {}
        for contender in case.contenders:
            # The first run warms up and is not counted; of several candidates for "best" a second one chooses.
            if alone:
                begin(contender)
            first[contender.name] = answer = workers[contender.name].ask(**contender.warm_up)
            if "error" not in answer and contender.column == "best" and not chosen.quick:
                answer = workers[contender.name].ask()
            _say(contender.name, answer, "first")
            if alone or "error" in answer:
                workers.pop(contender.name).close()
            if "error" in answer:
                failed[contender.name] = answer["error"]
            elif contender.column == "best":
                tried[contender.name] = case.work(answer) / answer["seconds"]
        losers = set() if chosen.quick else set(tried) - _fastest_of_each_group(case.contenders, tried)
        if kept is None:
            for name in losers & set(workers):
                workers.pop(name).close()
        counted = {c.name: c for c in case.contenders if c.name not in failed and c.name not in losers}
        names = list(counted)
        answers: dict[str, list[Answer]] = {name: [] for name in [*names, "matmul"]}
        for round_ in range(chosen.runs):
            for name in [*names[round_ % len(names) :], *names[: round_ % len(names)], "matmul"]:
                if alone:
                    contender = counted.get(name, matmul)
                    begin(contender)
                    workers[name].ask(**contender.warm_up)
                answer = workers[name].ask()
                if "error" in answer:
                    raise RuntimeError(f"{name}: {answer['error']}\n{workers[name].log()}")
                if alone:
                    workers.pop(name).close()
                answers[name].append(answer)
                if name != "matmul":
                    _say(name, answer, f"run {round_ + 1}")
        rows = {name: _row(case, contender, hellos[name], answers[name]) for name, contender in counted.items()}
        for name, row in rows.items():
            if "loss_after" in first[name]:
                row["details"]["loss_after_one_step"] = first[name]["loss_after"]
    finally:
        if kept is None:
            for worker in workers.values():
                worker.close()
        else:
            kept.clear()
            kept.update(workers)
    rate = statistics.median(a["flop_per_second"] for a in answers["matmul"])
    for row in rows.values():
        if "useful_flop_per_second" in row:
            row["share_of_matmul_rate"] = row["useful_flop_per_second"] / rate
    return {
        "size": case.size,
        "label": case.label,
        "unit": case.unit,
        "contenders": rows,
        "ratios": _ratios(rows) if case.ratios else {},
        "tried_for_best": tried,
        "failed": failed,
        "same_work": _same_work(case, rows),
        "bf16_matmul_flop_per_second": rate,
        "bf16_matmul_by_size": answers["matmul"][-1]["by_size"],
    }


def _fastest_of_each_group(contenders: Iterable[Contender], tried: dict[str, float]) -> set[str]:
    groups: dict[str, list[str]] = {}
    for contender in contenders:
        if contender.name in tried:
            groups.setdefault(contender.group, []).append(contender.name)
    return {max(names, key=tried.__getitem__) for names in groups.values()}


def _say(name: str, answer: Answer, which: str) -> None:
    what = answer["error"].partition("\n")[0] if "error" in answer else f"{answer['seconds']:.3f} s"
    print(f"   {time.strftime('%H:%M:%S')} {name}, {which}: {what}", file=sys.stderr, flush=True)


def _row(case: Case, contender: Contender, hello: Answer, answers: list[Answer]) -> dict[str, Any]:
    rates = [case.work(a) / a["seconds"] for a in answers]
    row: dict[str, Any] = {
        "column": contender.column,
        "request": contender.request,
        "versions": hello["versions"],
        "rate": statistics.median(rates),
        "rates": rates,
        "seconds": [a["seconds"] for a in answers],
        "peak_mib": statistics.median(a["peak_mib"] for a in answers),
        "resident_after_imports_mib": hello["resident_mib"],
        # Only of the last run, and without long lists.
        "details": {k: v for k, v in answers[-1].items() if k not in ("seconds", "peak_mib", "lengths")},
    }
    if lengths := answers[-1].get("lengths"):
        row["details"]["mean_length"] = sum(lengths) / len(lengths)
    if case.flop is not None:
        row["useful_flop_per_second"] = statistics.median(case.flop(a) / a["seconds"] for a in answers)
    return row


def _ratios(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Our rate over each other contender's: of the medians, and the lowest and highest of the single rounds."""
    ours = next((row for row in rows.values() if row["column"] == "heedful"), None)
    found: dict[str, Any] = {}
    for name, row in rows.items():
        if ours is not None and row is not ours:
            single = [a / b for a, b in zip(ours["rates"], row["rates"], strict=True)]
            found[name] = {
                "column": row["column"],
                "ratio": ours["rate"] / row["rate"],
                "least": min(single),
                "greatest": max(single),
                "peak_memory_ratio": ours["peak_mib"] / row["peak_mib"],
            }
    return found


def _same_work(case: Case, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """For each field of ``case.agree``: all sides' values, and whether they are equal within the tolerance."""
    checks: dict[str, Any] = {}
    for name, tolerance in case.agree.items():
        values = {contender: row["details"][name] for contender, row in rows.items() if name in row["details"]}
        numbers = list(values.values())
        if numbers and isinstance(numbers[0], list):
            agree = all(value == numbers[0] for value in numbers)
        else:
            agree = bool(numbers) and max(numbers) - min(numbers) <= tolerance
        checks[name] = {"values": values, "tolerance": tolerance, "agree": agree}
    return checks


class Worker:
    """A contender's process (see ``_worker.serve``)."""

    def __init__(self, contender: Contender, folder: Path, threads: int) -> None:
        self.contender, self.folder = contender, folder
        self._log = folder / f"{contender.name}.log"
        env = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": f"{BENCH.parent / 'src'}" if contender.script.startswith("_worker_heedful") else "",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(
                [str(contender.python), str(BENCH / contender.script), str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=env,
                start_new_session=True,
            )
        self.hello: Answer = {}

    def greet(self) -> None:
        """Wait until it has started. The constructor does not wait, so that all can start at the same time."""
        self.hello = self._read()
        if "error" in self.hello:
            raise RuntimeError(f"{self.contender.name}: {self.hello['error']}")

    def ask(self, **changes: Any) -> Answer:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(self.contender.request | changes) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended: its last output is read below
        return self._read()

    def log(self) -> str:
        return self._log.read_text(errors="replace")[-4_000:]

    def close(self) -> None:
        # Between requests it holds nothing to save, and an orderly end takes seconds.
        self.kill()
        self._process.communicate()

    def kill(self) -> None:
        """End the process and those that it has started. A caller that is waiting for an answer gets an error."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _read(self) -> Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            return {"error": f"the process ended with {self._process.returncode}:\n{self.log()}"}
        return json.loads(line)


def write(result: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".json", json.dumps(result, indent=1) + "\n"), (".md", table(result))):
        path = folder / (result["benchmark"] + suffix)
        path.with_suffix(".tmp").write_text(text, encoding="utf-8")
        os.replace(path.with_suffix(".tmp"), path)


def show(result: dict[str, Any], folder: Path) -> None:
    print(f"{table(result)}\n{folder / result['benchmark']}.json")


def table(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    machine_ = result["machine"]
    lines = [
        f"# {result['title']}",
        "",
        f"{machine_['cpu']}, {machine_['cores']} cores, {result['threads']} threads, {result['begun']}; "
        f"{result['busy_at_start']:.2f} processors busy before the start; medians of {result['runs']}.",
        "",
    ]
    if result["busy_at_start"] > BUSY:
        lines += ["**The machine was busy when this began: the figures are not a measurement.**", ""]
    if result["quick"]:
        lines += ["**A quick run: it shows that everything works and measures nothing.**", ""]
    lines += [
        "| size | case | contender | rate | unit | ours / this (least - greatest) | peak MiB (above imports) "
        "| share of bf16 matmul rate |",
        "| --- | --- | --- | ---: | --- | ---: | ---: | ---: |",
    ]
    notes: list[str] = []
    for case in result["cases"]:
        for name, row in case["contenders"].items():
            ratio = case["ratios"].get(name)
            ratio_text = f"{ratio['ratio']:.2f} ({ratio['least']:.2f} - {ratio['greatest']:.2f})" if ratio else ""
            share = f"{row['share_of_matmul_rate']:.1%}" if "share_of_matmul_rate" in row else ""
            lines.append(
                f"| {case['size']} | {case['label']} | {name} | {row['rate']:,.1f} | {case['unit']} | {ratio_text} "
                f"| {row['peak_mib']:,.0f} ({row['peak_mib'] - row['resident_after_imports_mib']:,.0f}) | {share} |"
            )
        where = f"{case['size']}, {case['label']}"
        notes += [f"- {where}: {name} did not run: {error}" for name, error in case["failed"].items()]
        for name, check in case["same_work"].items():
            values = check["values"]
            shown = "equal text" if any(isinstance(v, list) for v in values.values()) else _numbers(values)
            notes.append(f"- {where}: {name} {'agrees' if check['agree'] else 'DOES NOT AGREE'}: {shown}")
        for name, row in case["contenders"].items():
            if parts := row["details"].get("parts"):
                notes.append(f"- {where}: {name}, seconds by part: {_numbers(parts)}")
        for key in ("optimiser_steps", "response_tokens"):
            values = {n: row["details"][key] for n, row in case["contenders"].items() if key in row["details"]}
            if values:
                notes.append(f"- {where}: {key}: {_numbers(values)}")
    losses = [
        f"- {case['size']}, {case['label']}: slower than {name} ({ratio['ratio']:.2f})"
        for case in result["cases"]
        for name, ratio in case["ratios"].items()
        if ratio["ratio"] < 1
    ] + [
        f"- {case['size']}, {case['label']}: more memory than {name} ({ratio['peak_memory_ratio']:.2f} times)"
        for case in result["cases"]
        for name, ratio in case["ratios"].items()
        if ratio["peak_memory_ratio"] > 1
    ]
    lines += ["", "Where Heedful loses:", "", *(losses or ["- nowhere in this table"]), "", "Notes:", "", *notes, ""]
    if extra := result.get("extra"):
        lines += ["Derived:", "", *(f"- {name}: {value:.3g}" for name, value in extra.items()), ""]
    return "\n".join(lines)


def _numbers(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def busy_processors() -> float:
    """Busy processors over some seconds, of all cores. The load average would still include the previous benchmark."""
    return psutil.cpu_percent(interval=3.0) / 100 * (os.cpu_count() or 1)


def machine() -> dict[str, Any]:
    """The processor, its cores and memory, and the system, without the host's name."""
    cpu, flags = platform.processor(), ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
        if line.startswith("flags"):
            flags = line
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "bf16_instructions": [f for f in ("amx_bf16", "avx512_bf16") if f in flags],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
    }


def commit() -> str | None:
    try:
        git = ["git", "-C", str(BENCH.parent)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout.strip()
        return commit + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
