"""A people's project that aligns in seconds: a random GPT-2 of two layers, invented prompts, labelers who like long answers."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from tests.tiny import plain, tiny_gpt2, tiny_tokenizer
from transformers import PreTrainedTokenizerBase

from heedful import cli
from heedful.training.run import Run

COMMON = 'precision = "float32"\nmax_prompt_tokens = 12\nmax_response_tokens = 8\ncheckpoint_seconds = 1e-9\n'
SMALL = f"""
[sft]
epochs = 2
batch_size = 4
candidates = 2
learning_rate = 1e-2
{COMMON}
[initial_policy]
epochs = 2
batch_size = 4
candidates = 2
learning_rate = 1e-2
{COMMON}
[reward]
batch_size = 4
learning_rate = 1e-2
{COMMON}
[ppo]
episodes = 32
batch_size = 8
minibatches = 2
learning_rate = 1e-3
value_learning_rate = 1e-3
warmup_iterations = 2
ptx_examples_per_episode = 1
ptx_context_length = 24
{COMMON}
[collect]
prompts = 10
validation_prompts = 3
smallest_k = 3
largest_k = 4

[evaluate]
prompts = 6
choice_prompts = 4
"""
"""Every stage in a second; a checkpoint after every step."""


def write_base_model(folder: Path) -> Path:
    """Plain transformers wrote it, as a user's base model."""
    plain(tiny_gpt2(scale=0.15)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def rows() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Prompts of ten users' and demonstrations for half of them: whatever is asked, the answer ends in w7."""
    rng = np.random.default_rng(0)
    prompts: list[dict[str, Any]] = []
    demonstrations: list[dict[str, Any]] = []
    for split, number in (("train", 24), ("valid", 6), ("test", 7)):
        for i in range(number):
            words = " ".join(f"w{n}" for n in rng.integers(8, 60, 2 + i % 5))
            identifier = f"{split}{i}"
            prompts.append({"kind": "prompt", "id": identifier, "text": words, "split": split, "user": f"{split}-{i % 3}"})
            if split != "test" and i % 2:
                answer = {"kind": "demonstration", "prompt_id": identifier, "text": f"{words.split()[0]} w7", "labeler": "ann"}
                demonstrations.append(answer)
    return prompts, demonstrations


def write_rows(path: Path, rows: Iterable[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def filled_in(tasks: Path, labeler: str) -> list[Any]:
    """The tasks as a labeler sends them back: the more words an answer has, the better."""
    answered = read_rows(tasks)
    for task in answered:
        lengths = [len(text.split()) for text in task["responses"]]
        task["ranks"] = [1 + sorted(set(lengths), reverse=True).index(length) for length in lengths]
        task["labeler"] = labeler
    return answered


def set_config(project: Path, old: str, new: str) -> None:
    file = project / "heedful.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def write_pretraining_text(project: Path) -> None:
    rng = np.random.default_rng(1)
    folder = project / "data" / "pretraining"
    folder.mkdir(parents=True)
    documents = ({"text": " ".join(f"w{n}" for n in rng.integers(1, 60, 20))} for _ in range(120))
    write_rows(folder / "train.jsonl", documents)


def run(*arguments: object) -> tuple[int, str]:
    """Run ``heedful`` in this process: exit code, and standard output and error together."""
    said, code = StringIO(), 0
    with redirect_stdout(said), redirect_stderr(said):
        try:
            cli.main([str(a) for a in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, said.getvalue()


@dataclass(frozen=True)
class Ended:
    """How a process ended (minus the signal's number where one killed it), and what it said."""

    returncode: int
    stdout: str
    stderr: str


def heedful(processes: Any, *arguments: object, before: Callable[[], None] | None = None) -> Ended:
    """Run ``heedful`` in a process of its own (the fixture ``processes``), on one thread; ``before`` is called there first."""
    with TemporaryDirectory() as folder:
        said = [Path(folder) / name for name in ("stdout", "stderr")]
        process = processes.Process(target=_heedful, args=([str(a) for a in arguments], *said, before))
        process.start()
        process.join(250)
        if process.exitcode is None:
            process.kill()
            process.join()
        assert process.exitcode is not None
        return Ended(process.exitcode, *(path.read_text() for path in said))


def _heedful(arguments: list[str], stdout: Path, stderr: Path, before: Callable[[], None] | None) -> None:
    for descriptor, path in enumerate((stdout, stderr), start=1):
        with path.open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    torch.set_num_threads(1)
    if before is not None:
        before()
    cli.main(arguments)


def send_itself(number: signal.Signals, title: str, last: int, where: str) -> None:
    """Let this process send itself a signal: in its ``last`` step (where: "log"), or while it saves a model ("save")."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored
    log, save_tokenizer = Run.log, PreTrainedTokenizerBase.save_pretrained

    def killing_log(self: Run, step: int, metrics: Any) -> None:
        log(self, step, metrics)
        if (self.title, step, where) == (title, last, "log"):
            os.kill(os.getpid(), number)

    def killing_save(self: Any, folder: Any, *more: Any, **options: Any) -> Any:
        if where == "save" and f"{os.sep}{title}-" in str(folder):  # the model's own files are written, the tokenizer's are not
            os.kill(os.getpid(), number)
        return save_tokenizer(self, folder, *more, **options)

    Run.log, PreTrainedTokenizerBase.save_pretrained = killing_log, cast(Any, killing_save)


def stages_copied_from_one() -> None:
    """Let the stages' processes be copies of one that has imported what they need, which takes longer than what they do."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["heedful.align.loop"])
    cast(Any, multiprocessing).get_context = lambda _: context


def copy_of(project: Path, folder: Path) -> Path:
    """The project as it was before anything was trained: its data and settings."""
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("runs", "results.json", "report.html", "timings.json"))
    return folder
