"""The import layers hold: import-linter's contracts (pyproject.toml) are kept, can break, and the light parts need no torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")

# What `pip install heedful` brings up without any extra.
LIGHT = (
    "errors",
    "conversation",
    "records",
    "progress",
    "statistics",
    "project",
    "labeling",
    "prompts",
    "web",
    "presets",
    "align.status",
    "experiments.catalogue",
    "cli",
)
# What only the extras bring.
HEAVY = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "jaxtyping",
    "scipy",
    "matplotlib",
    "pyarrow",
    "presidio_analyzer",
    "tensorboard",
    "beartype",
    "psutil",
    "peft",
    "accelerate",
    "prometheus_client",
)
IMPORT_ALL_OF = """
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({heavy!r}))  # None: an import of it raises ImportError
module = importlib.import_module({name!r})
for found in pkgutil.walk_packages(getattr(module, "__path__", []), {name!r} + "."):
    importlib.import_module(found.name)
"""


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LINT_IMPORTS, "--no-logo", "--no-cache", "--config", root / "pyproject.toml"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_contracts_are_kept() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


MISTAKES = {
    "errors.py": ("import heedful.records", "heedful.errors is not allowed to import heedful.records"),
    "records.py": ("import torch", "heedful.records is not allowed to import torch"),
    "web/label/pages.py": ("def page():\n    import heedful.model.loaded", "heedful.web is not allowed to import torch"),
    "training/sft.py": ("import heedful.training.ppo", "heedful.training.sft is not allowed to import"),
    "utils.py": ("", "- heedful.utils"),
}
"""Lines at the end of files, and what import-linter must say of them."""


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What import-linter says of each mistake. ``records.py`` has its own copy: through it every module imports torch."""
    alone = {"records.py"}
    return {
        file: said
        for files in (alone, MISTAKES.keys() - alone)
        for said in [complaint_about(files, tmp_path_factory.mktemp("mistakes"))]
        for file in files
    }


def complaint_about(files: Collection[str], root: Path) -> str:
    package = root / "src" / "heedful"
    shutil.copytree(ROOT / "src" / "heedful", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for name in ("model/loaded.py", "training/ppo.py", *files):
        path = package / name
        path.parent.mkdir(exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.touch()
    (package / "model" / "loaded.py").write_text("import torch\n")
    for file in files:
        with (package / file).open("a") as source:
            source.write(f"\n{MISTAKES[file][0]}\n")
    done = lint_imports(root)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("file", MISTAKES)
def test_contracts_break(complaints: dict[str, str], file: str) -> None:
    """Each contract, seen red: optional layers and wildcards make it easy to write one that checks nothing."""
    assert MISTAKES[file][1] in complaints[file]


@pytest.mark.parametrize("name", LIGHT)
def test_light_without_extras(name: str) -> None:
    """Every module of the part, and the command, can be imported where only the core dependencies are installed."""
    code = IMPORT_ALL_OF.format(heavy=HEAVY, name=f"heedful.{name}")
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_file_name_says_where_it_is() -> None:
    """Two files of one name are hard to tell apart in an editor's tabs and in a traceback."""
    names = Counter(path.name for path in (ROOT / "src").rglob("*.py") if "migrations" not in path.parts)
    assert {name for name, count in names.items() if count > 1} <= {"__init__.py", "__main__.py"}
