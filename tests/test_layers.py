"""The import layers hold: import-linter's contracts (pyproject.toml) are kept, can break, and the light parts need no torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
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


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("errors.py", "import heedful.records", "heedful.errors is not allowed to import heedful.records"),
        ("records.py", "import torch", "heedful.records is not allowed to import torch"),
        ("web/label/pages.py", "def page():\n    import heedful.model.loaded", "heedful.web is not allowed to import"),
        ("training/sft.py", "import heedful.training.ppo", "heedful.training.sft is not allowed to import"),
        ("utils.py", "", "- heedful.utils"),
    ],
)
def test_contracts_break(tmp_path: Path, file: str, line: str, complaint: str) -> None:
    """Each contract, seen red: optional layers and wildcards make it easy to write one that checks nothing."""
    package = tmp_path / "src" / "heedful"
    shutil.copytree(ROOT / "src" / "heedful", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in ("model/loaded.py", "training/ppo.py", file):
        path = package / name
        path.parent.mkdir(exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.touch()
    (package / "model" / "loaded.py").write_text("import torch\n")
    with (package / file).open("a") as source:
        source.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert complaint in done.stdout


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
