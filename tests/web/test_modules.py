"""The pure functions of the pages' ES modules, run by node where there is one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import heedful.web

STATIC = Path(heedful.web.__file__).parent / "static"
TESTS = sorted(Path(__file__).parent.glob("*.test.mjs"))
NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="node is not installed: the ES modules' pure functions are not tested by themselves")
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_module(path: Path, tmp_path: Path) -> None:
    assert NODE is not None
    # Beside each other, and taken for modules: what ships has no package.json, the browser needs none.
    for source in (*STATIC.glob("*.js"), path):
        shutil.copy(source, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    done = subprocess.run([NODE, "--test", path.name], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_module_tests() -> None:
    assert TESTS
