"""The facts of a model card, read from a project's files. Unknown facts are None, and the card says so."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heedful.errors import DataError, HeedfulError, MissingError
from heedful.evaluate.results import Results
from heedful.evaluate.results_file import load_results
from heedful.lineage.run_graph import MODEL, RunNode, runs_of
from heedful.lineage.subjects import subject_of
from heedful.lineage.tracing import model_lineage
from heedful.model_files import count_parameters
from heedful.project.project import Project

_LICENSE = re.compile(r"^license:\s*[\"']?([A-Za-z0-9.\-_]+)[\"']?\s*$", re.MULTILINE)
_HUB_NAME = re.compile(r"[\w.\-]+/[\w.\-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """The model that training began with."""

    path: str
    digest: str
    name: str | None
    """Its name on the Hugging Face hub, from its configuration."""
    license: str | None
    """From its own model card."""
    license_files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """All facts that fill the card."""

    project: str
    run: str
    name: str | None
    """The model's name in the evaluation."""
    folder: Path
    template: str
    """plain, chat or file."""
    architecture: str | None
    parameters: int | None
    base: BaseModel | None
    lineage: Mapping[str, Any]
    results: Results | None
    """Results of the newest evaluation, if it compared this model."""
    benchmarks: Mapping[str, Any] | None
    """Results of `heedful evaluate benchmarks` that contain this model."""
    benchmark_name: str | None
    """The model's name in ``benchmarks``."""


def card_facts(project: Project, name: str, *, benchmarks: Path | None = None) -> CardFacts:
    """Collect the facts about one run's model.

    name: a run's folder name. benchmarks: the folder that `heedful evaluate benchmarks` wrote.
    Raises MissingError for a run without a model, DataError for a broken file.
    """
    runs = runs_of(project.runs)
    run = runs.get(name)
    if run is None or not run.has_model:
        raise MissingError(
            f"there is no model of the run {name!r}",
            expected="a run that has ended with a model",
            got=", ".join(one.name for one in runs.values() if one.has_model) or "no run with a model",
            where=project.runs,
            next_step="run `heedful align`, or name another --model",
        )
    folder = run.folder / MODEL
    made = run.use.makes if run.use else None
    if made is None and run.stage in ("sft", "ppo", "ppo_ptx", "ppo_ptx_small"):
        made = run.stage
    found, own_name = (None, None) if benchmarks is None else _benchmarks(benchmarks, made, name)
    lineage = model_lineage(project, name, runs)
    return CardFacts(
        project=project.name,
        run=name,
        name=made,
        folder=folder,
        template=project.template if project.template in ("plain", "chat") else "file",
        architecture=_architecture(folder),
        parameters=count_parameters(folder),
        base=_base(lineage),
        lineage=lineage,
        results=_results(project, runs, run, made),
        benchmarks=found,
        benchmark_name=own_name,
    )


def _architecture(folder: Path) -> str | None:
    names = _configuration(folder).get("architectures")
    return str(names[0]) if isinstance(names, list) and names else None


def _configuration(folder: Path) -> Mapping[str, Any]:
    try:
        value = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _base(lineage: Mapping[str, Any]) -> BaseModel | None:
    """Return the base model, from the first run that names one."""
    for row in lineage["runs"]:
        for what in ("base_model", "small_model"):
            if what in row.get("inputs", {}):
                given = row["inputs"][what]
                path = Path(given["path"])
                hub = _configuration(path).get("_name_or_path")
                return BaseModel(
                    path=given["path"],
                    digest=given["digest"],
                    name=hub if isinstance(hub, str) and _HUB_NAME.fullmatch(hub) else None,
                    license=_license(path),
                    license_files=_license_files(path),
                )
    return None


def _license(folder: Path) -> str | None:
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    front = text.split("\n---", 1)[0] if text.startswith("---") else ""
    found = _LICENSE.search(front)
    return found[1].lower() if found else None


def _license_files(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    return tuple(
        sorted(path.name for path in folder.iterdir() if path.name.upper().startswith(("LICENSE", "LICENCE", "NOTICE")))
    )


def _results(project: Project, runs: Mapping[str, RunNode], run: RunNode, made: str | None) -> Results | None:
    """Read results.json if the newest finished evaluation compared this run's model."""
    evaluations = [one for one in runs.values() if one.stage == "evaluate" and one.done]
    file = project.folder / "results.json"
    if not evaluations or run.name not in evaluations[-1].parents or not file.is_file():
        return None
    results = load_results(file)
    return results if any(model["name"] == made for model in results["models"]) else None


def _benchmarks(folder: Path, made: str | None, run: str) -> tuple[Mapping[str, Any], str]:
    """Read the results of `heedful evaluate benchmarks`, with the model's name there. Raises MissingError, DataError."""
    path = folder / "results.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        models = list(value["models"])
        assert isinstance(value["scores"], list)
    except FileNotFoundError:
        raise MissingError(
            "there are no benchmark results",
            expected="the --out folder of `heedful evaluate benchmarks`",
            got="nothing",
            where=path,
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise DataError(
            "these are not benchmark results",
            expected="results.json of `heedful evaluate benchmarks`",
            got=str(error),
            where=path,
        ) from None
    name = next((one for one in (made, run) if one in models), None)
    if name is None:
        raise DataError(
            "the model is not among the benchmark results",
            expected=f"a model called {made or run!r}: NAME=FOLDER names it in `heedful evaluate benchmarks`",
            got=", ".join(models),
            where=path,
        )
    return value, name


def run_of_model(project: Project, name: str) -> str:
    """Find the newest finished run by the name of a model, stage or run. Raises MissingError, HeedfulError."""
    try:
        subject = subject_of(project, name, kind="model")
    except MissingError as error:
        raise MissingError(
            f"there is no model {name!r}",
            expected="a model of the evaluation such as ppo_ptx, or a run such as ppo_ptx-1",
            got=repr(name),
            where=project.runs,
            next_step=error.next_step,
        ) from None
    if subject.run is None:
        raise HeedfulError("a model without a run", got=name)
    return subject.run
