from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console

from heedful.align.processes import peak_memory, run_in_processes
from heedful.align.running import Job, Stages
from heedful.errors import DataError, HeedfulError


def note(folder: Path, *, console: Console) -> None:
    console.print("a line", highlight=False)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "note").write_text(f"{os.getpid()} {torch.get_num_threads()} {console.is_terminal}")


def refuse(folder: Path, *, console: Console) -> None:
    raise DataError("no such row", expected="a row", got="none", where=folder)


def wait(folder: Path, *, console: Console) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pid").write_text(str(os.getpid()))
    try:
        time.sleep(60)
    finally:
        (folder / "cleaned up").touch()


def kill_oneself(folder: Path, *, console: Console) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse_when_others_run(folder: Path, *, console: Console) -> None:
    while not (folder.parent / "waits" / "pid").exists():
        time.sleep(0.05)
    refuse(folder, console=console)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc").exists() else True


@pytest.fixture
def six_threads() -> Iterator[None]:
    """More than most machines' default, which a new process would have by itself."""
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    yield
    torch.set_num_threads(before)


def test_each_call_has_its_process_and_its_share_of_the_threads(six_threads: None, tmp_path: Path) -> None:
    calls = {name: partial(note, tmp_path / name) for name in ("a", "b")}
    found = dict(run_in_processes(calls, processes=2))
    assert set(found) == set(calls)
    assert all(cost.seconds > 0 for cost in found.values())
    notes = {name: (tmp_path / name / "note").read_text().split() for name in calls}
    assert len({pid for pid, *_ in notes.values()} - {str(os.getpid())}) == 2
    assert {threads for _, threads, _ in notes.values()} == {"3"}
    assert {terminal for *_, terminal in notes.values()} == {"False"}


def say(folder: Path, *, console: Console) -> None:
    with (folder / "said").open("w") as console.file:
        console.print("ppo: step 1", highlight=False)


def test_stages_of_one_name_side_by_side(tmp_path: Path) -> None:
    """Trials differ in their inputs only. Each has its own folder, and its lines say which one it is."""
    for action in (say, refuse):  # each is done once
        stages = Stages(tmp_path, Console(quiet=True))
        jobs = [Job(name="ppo", inputs={"rate": rate}, action=action) for rate in (1, 2, 3)]
        found = stages.run_side_by_side(jobs, processes=2)
        assert [one.folder.name for one in found] == ["ppo-1", "ppo-2", "ppo-3"]
        assert [json.loads((one.folder / "stage.json").read_text())["inputs"]["rate"] for one in found] == [1, 2, 3]
        assert [(one.folder / "said").read_text() for one in found] == [f"ppo-{n} ppo: step 1\n" for n in (1, 2, 3)]


def note_parent(folder: Path, *, console: Console) -> None:
    maps = Path(f"/proc/{os.getppid()}/maps")
    (folder / "parent").write_text(f"{os.getppid()} {maps.exists() and 'libtorch_cpu' in maps.read_text()}")


@pytest.mark.skipif(not Path("/proc").exists(), reason="a system without /proc does not say what a process has loaded")
def test_processes_begin_with_everything_imported(tmp_path: Path) -> None:
    parents: set[str] = set()
    for _ in range(2):
        dict(run_in_processes({"a": partial(note_parent, tmp_path)}, processes=1))
        parents.add((tmp_path / "parent").read_text())
    [(parent, has_torch)] = {tuple(line.split()) for line in parents}
    assert int(parent) != os.getpid()
    assert has_torch == "True"


def hold(folder: Path, *, console: Console) -> None:
    held = bytearray(os.urandom(2**20)) * 1_000
    started = time.process_time()
    while time.process_time() - started < 1.2:
        held[-1] = 1


@pytest.mark.skipif(not Path("/proc").exists(), reason="memory is known only with /proc")
def test_a_stage_counts_what_it_does_in_other_processes(tmp_path: Path) -> None:
    """`collect` lets other processes write answers: their time and memory are the stage's."""
    before = peak_memory()

    def action(folder: Path) -> None:
        dict(run_in_processes({"a": partial(hold, folder), "b": partial(hold, folder)}, processes=2))

    stage = Stages(tmp_path, Console(quiet=True)).run("collect", {}, action)
    assert stage.processor_seconds is not None
    assert stage.processor_seconds > 2.4
    assert peak_memory() > max(before, 2_000 * 2**20)


def test_what_fails_is_raised_and_the_others_are_stopped(tmp_path: Path) -> None:
    calls = {"waits": partial(wait, tmp_path / "waits"), "fails": partial(refuse_when_others_run, tmp_path / "fails")}
    started = time.monotonic()
    with pytest.raises(DataError, match="no such row\n  expected: a row"):
        dict(run_in_processes(calls, processes=2))
    assert time.monotonic() - started < 45
    assert (tmp_path / "waits" / "cleaned up").exists()
    assert not alive(int((tmp_path / "waits" / "pid").read_text()))


def test_a_process_that_is_killed_is_reported(tmp_path: Path) -> None:
    with pytest.raises(HeedfulError, match="a process that ran a stage was killed"):
        dict(run_in_processes({"gone": partial(kill_oneself, tmp_path)}, processes=1))


def test_processes_end_when_the_first_one_is_killed(tmp_path: Path) -> None:
    code = (
        "from functools import partial; from pathlib import Path\n"
        "from heedful.align.processes import run_in_processes\n"
        "from tests.align.test_processes import wait\n"
        f"if __name__ == '__main__': dict(run_in_processes({{'waits': partial(wait, Path({str(tmp_path)!r}))}}, processes=1))\n"
    )
    script = tmp_path / "first.py"
    script.write_text(code)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    first = subprocess.Popen([sys.executable, str(script)], env=environment)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert first.poll() is None
        time.sleep(0.05)
    first.kill()
    first.wait()
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 60
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(pid)


def refuse_when_the_other_is_done(folder: Path, *, console: Console) -> None:
    other = folder.parent / "a-1" / "stage.json"
    while not (other.exists() and '"done": true' in other.read_text()):
        time.sleep(0.05)
    refuse(folder, console=console)


def stages_side_by_side(runs: Path, actions: dict[str, object], processes: int) -> Stages:
    stages = Stages(runs, Console(quiet=True))
    stages.run_side_by_side([Job(name=n, inputs={"n": n}, action=a) for n, a in actions.items()], processes=processes)  # type: ignore[arg-type]
    return stages


def test_stages_side_by_side_are_done_once_and_share_the_clock_on_the_wall(tmp_path: Path) -> None:
    actions: dict[str, object] = {"a": note, "b": note}
    started = time.monotonic()
    stages = stages_side_by_side(tmp_path, actions, 2)
    assert sum(stage.seconds for stage in stages.done) <= time.monotonic() - started
    assert [stage.name for stage in stages.done] == ["a", "b"]
    # Done is done, whatever number of processes the next run has.
    nothing: dict[str, object] = {"a": refuse, "b": refuse}
    for processes in (1, 2):
        again = stages_side_by_side(tmp_path, nothing, processes)
        assert [(s.name, s.folder, s.fingerprint) for s in again.done] == [
            (s.name, s.folder, s.fingerprint) for s in stages.done
        ]
        assert [s.seconds for s in again.done] == pytest.approx([s.seconds for s in stages.done])


def test_a_stage_that_was_done_stays_done_when_one_beside_it_fails(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        stages_side_by_side(tmp_path, {"a": note, "b": refuse_when_the_other_is_done}, 2)
    stages = stages_side_by_side(tmp_path, {"a": refuse, "b": note}, 1)
    assert [stage.folder.name for stage in stages.done] == ["a-1", "b-1"]
