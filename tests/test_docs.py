"""What README and docs say runs, runs.

A ``console`` or ``python`` block right after a line ``<!-- run -->`` is executed; the blocks of one page run in order in one
empty folder. In a console block a line ``$ command`` is run by bash and must exit 0; the lines below it, if any, must be its
output, where ``...`` stands for anything. Blocks too slow to run still have their verbs and targets checked.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.align.small_project import run

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")) if "_build" not in path.parts and path.is_file()
)
BLOCK = re.compile(
    r"(?P<marker><!-- run -->\n+)?^```(?P<language>console|python)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
COMMAND_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    language: str
    body: str
    run: bool


def blocks_of(page: str) -> list[Block]:
    return [
        Block(language=found["language"], body=found["body"], run=found["marker"] is not None) for found in BLOCK.finditer(page)
    ]


def commands_of(body: str) -> list[tuple[str, str]]:
    """Each command of a console block with the output written below it; a trailing backslash continues a command."""
    commands: list[tuple[str, str]] = []
    for line in body.splitlines(keepends=True):
        if line.startswith("$ "):
            commands.append((line[2:], ""))
        elif commands and commands[-1][0].endswith("\\\n"):
            commands[-1] = (commands[-1][0] + line.removeprefix("> "), "")
        elif commands:
            commands[-1] = (commands[-1][0], commands[-1][1] + line)
        else:
            raise AssertionError(f"a console block starts with a command ('$ ...'), not with {line!r}")
    return commands


def run_page(page: str, folder: Path) -> int:
    """Run the marked blocks of a page in ``folder``; returns how many there were, AssertionError at the first that fails."""
    blocks = [block for block in blocks_of(page) if block.run]
    tools = folder / ".bin"
    tools.mkdir()
    # The command as installation makes it, also where the package is only on the path.
    (tools / "heedful").write_text(f'#!/bin/sh\nexec {sys.executable} -c "from heedful.cli import main; main()" "$@"\n')
    (tools / "heedful").chmod(0o755)
    env = os.environ | {
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "COLUMNS": "120",
        "NO_COLOR": "1",
    }

    def run(command: list[str]) -> str:
        done = subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=COMMAND_TIMEOUT_S
        )
        assert done.returncode == 0, f"{command[-1]}\nexit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    for block in blocks:
        if block.language == "python":
            run([sys.executable, "-c", block.body])
            continue
        for command, expected in commands_of(block.body):
            output = run(["bash", "-c", command])
            same = doctest.OutputChecker().check_output(expected, output, doctest.ELLIPSIS)
            assert same or not expected.strip(), f"$ {command}\nexpected:\n{expected}\ngot:\n{output}"
    return len(blocks)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_page(path: Path, tmp_path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert page.count("<!-- run -->\n") == run_page(page, tmp_path), "a '<!-- run -->' line stands right above no block"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        (path.name, target)
        for path in PAGES
        for block in blocks_of(path.read_text(encoding="utf-8"))
        for command, _ in (commands_of(block.body) if block.language == "console" else [])
        for target in re.findall(r"^make ([a-z]+)", command)
    }
    assert named, "no page shows a make command"
    assert {(page, target) for page, target in named if target not in targets} == set()


def test_verbs_exist() -> None:
    """Each `heedful VERB` of a console block answers to --help, also where the block is too slow to run here."""
    verbs = {
        verb
        for path in PAGES
        for block in blocks_of(path.read_text(encoding="utf-8"))
        for command, _ in (commands_of(block.body) if block.language == "console" else [])
        for verb in re.findall(r"^(?:\S*/)?heedful ([a-z]+)", command)
    }
    for verb in sorted(verbs):
        code, said = run(verb, "--help")
        assert code == 0, f"heedful {verb} --help\n{said}"


@pytest.mark.parametrize(
    "block",
    [
        "```python\nassert False\n```\n",
        "```console\n$ false\n```\n",
        "```console\n$ echo one\ntwo\n```\n",
        "```console\n$ echo one | \\\n> grep two\n```\n",
    ],
)
def test_a_wrong_block_is_red(tmp_path: Path, block: str) -> None:
    with pytest.raises(AssertionError):
        run_page(f"text\n\n<!-- run -->\n{block}", tmp_path)


def test_a_right_block_is_green(tmp_path: Path) -> None:
    page = (
        "<!-- run -->\n```console\n$ echo one > file\n$ cat file; echo and two\none\nand ...\n```\n\n```console\n$ false\n```\n"
    )
    assert run_page(page, tmp_path) == 1
