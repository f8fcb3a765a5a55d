"""Creates the other side's virtual environments: ``python bench/_setup.py``. Does nothing if they are up to date.

torch comes first and by itself, at the version of this project's constraints.txt, so that no other package chooses one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent
ENVIRONMENTS = {"trl": BENCH / "requirements-trl.txt", "trl-ppo": BENCH / "requirements-trl-ppo.txt"}


def python_of(name: str) -> Path:
    return BENCH / ".venvs" / name / "bin" / "python"


def is_ready(name: str) -> bool:
    ready = BENCH / ".venvs" / name / ".ready"
    return ready.is_file() and ready.read_text() == ENVIRONMENTS[name].read_text()


def make(name: str) -> None:
    requirements = ENVIRONMENTS[name]
    if is_ready(name):
        return
    print(f"bench: installing {requirements.name} into {python_of(name).parents[1]}, a few minutes the first time", flush=True)
    torch = next(line for line in requirements.read_text().splitlines() if line.startswith("torch=="))
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(python_of(name).parents[1])], check=True)
    install = [str(python_of(name)), "-m", "pip", "install", "-qq", "--constraint", str(requirements)]
    subprocess.run([*install, torch], check=True)
    subprocess.run([*install, "--requirement", str(requirements)], check=True)
    (BENCH / ".venvs" / name / ".ready").write_text(requirements.read_text())


if __name__ == "__main__":
    for environment in ENVIRONMENTS:
        make(environment)
