from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from heedful.errors import BusyError, StorageError
from heedful.project.files import locked
from heedful.project.lock import LOCK_FILE, alone_in

HOLD = """
import sys, time
from pathlib import Path
from heedful.project.lock import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(runs: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(runs)], stdout=subprocess.PIPE, text=True, env=environment)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    return other


def test_another_process_is_refused_by_name_and_after_its_death_let_in(tmp_path: Path) -> None:
    runs = tmp_path / "new" / "runs"
    other = holder(runs)
    try:
        with pytest.raises(BusyError, match=f"process {other.pid} on ") as caught, alone_in(runs):
            pytest.fail("two at a time")
        assert caught.value.exit_code == 2
        assert str(runs) in str(caught.value)
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    with alone_in(runs):
        assert str(os.getpid()) in (runs / LOCK_FILE).read_text()


def test_it_is_released_at_the_end_and_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), alone_in(tmp_path):
        raise KeyError
    for _ in range(2):
        with alone_in(tmp_path):
            pass
    assert (tmp_path / LOCK_FILE).read_text() == ""


def test_a_lock_that_is_a_link_is_refused_and_its_target_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "thesis.txt"
    target.write_text("years of work")
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / LOCK_FILE).symlink_to(target)
    with pytest.raises(StorageError), alone_in(runs):
        pytest.fail("locked a link")
    with pytest.raises(StorageError), locked(runs):
        pytest.fail("locked a link")
    assert target.read_text() == "years of work"
