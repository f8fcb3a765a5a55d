"""``heedful`` as one rank of several: each a process of its own, joined as ``torchrun`` joins them; and what goes wrong in one.

``python -m tests.align.command_ranks ...`` is what the test of torchrun's own restarts starts: its rank 1 is killed in PPO.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist

import heedful.align.sweep  # noqa: F401 (with all of align, so that the ranks need not import it again)
from heedful import cli
from heedful.align import steps, train_stages
from heedful.align.task_files import TaskFiles
from heedful.errors import DataError, StorageError
from heedful.ranks import ending
from heedful.ranks.collectives import broadcast
from heedful.ranks.rank_zero import barrier_without_timeout, on_rank_zero
from heedful.ranks.world import world
from heedful.training.run import Run


def work(arguments: list[str], said: str, rank: int, size: int, port: int, trouble: str | None) -> None:
    """One rank: ``heedful ARGUMENTS``; what it said and its exit code go to ``SAID.rank-N``."""
    torch.set_num_threads(1)
    if size > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        os.environ["TORCHELASTIC_RUN_ID"] = "tests"
    ending.PATIENCE_SECONDS = 4.0
    if trouble is not None:
        TROUBLES[trouble](rank)
    heard, code = StringIO(), 0
    with redirect_stdout(heard), redirect_stderr(heard):
        try:
            cli.main(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
    Path(f"{said}.rank-{rank}").write_text(f"{code}\n{heard.getvalue()}")
    if code:
        os._exit(code)


def at_step(title: str, at: int, what: Callable[[], Any]) -> None:
    log = Run.log

    def logging(self: Run, step: int, metrics: Any) -> None:
        log(self, step, metrics)
        if (self.title, step) == (title, at):
            what()

    Run.log = logging


def kill_the_last(rank: int) -> None:
    if rank == 1:
        at_step("ppo_ptx", 2, lambda: os.kill(os.getpid(), signal.SIGKILL))


def interrupt(rank: int) -> None:
    def ctrl_c() -> None:
        raise KeyboardInterrupt

    at_step("ppo", 1, ctrl_c)


def first_rank_cannot_write(rank: int) -> None:
    def full(*given: Any) -> None:
        time.sleep(1.0)
        raise StorageError("no room", where="tasks")

    TaskFiles._write = full  # type: ignore[method-assign]


def another_rank_cannot_read(rank: int) -> None:
    def bad(*given: Any) -> Any:
        raise DataError("this rank's disk is bad")

    if rank == 1:
        train_stages.policy_for_training = bad


def mistake(rank: int) -> None:
    def wrong(*given: Any, **more: Any) -> Any:
        raise ZeroDivisionError("a mistake in Heedful")

    cast("dict[str, Any]", steps.STEPS)["sft"] = wrong


TROUBLES: dict[str, Callable[[int], None]] = {
    f.__name__: f for f in (kill_the_last, interrupt, first_rank_cannot_write, another_rank_cannot_read, mistake)
}


def wait_long(said: str, rank: int, size: int, port: int) -> None:
    """Rank 0 works for longer than the collectives' time limit; and so does the last rank before the barrier."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    init = dist.init_process_group
    dist.init_process_group = lambda *a, **k: init(*a, timeout=timedelta(seconds=1), **k)
    world()

    def slow() -> str:
        time.sleep(2.5)
        return "rank 0's"

    found = on_rank_zero(slow)
    if rank:
        time.sleep(2.5)
    barrier_without_timeout()
    found = broadcast(found)  # the group is whole
    Path(f"{said}.rank-{rank}").write_text(found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        kill_the_last(int(os.environ["RANK"]))
    cli.main(sys.argv[1:])
