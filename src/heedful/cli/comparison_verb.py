"""``heedful evaluate page``: one page that compares models."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console

from heedful.cli.options import PositionalProject, load_project, optional, say
from heedful.errors import MissingError

if TYPE_CHECKING:
    from heedful.project.project import Project


@dataclass(frozen=True, kw_only=True)
class EvaluatePage:
    """Write one page that compares models: preferences, benchmarks, answers.

    - Labelers' win rates, ratings and the paper's Table 3, from a run of
      `heedful evaluate people` or from the project's own evaluation.
    - With --benchmarks: the rows of the paper's Table 14 with intervals.
    - With --marks: how often each model shows known failure modes.
    - All answers side by side, with a search. The page works offline.
    """

    project: PositionalProject = Path()
    judged: Annotated[str | None, optional("RUN")] = None
    """A run such as people-1 or evaluate-1 (else the newest people run, else the newest evaluate run)."""
    benchmarks: Annotated[Path | None, optional("OUT")] = None
    """The --out folder of `heedful evaluate benchmarks`."""
    table14: Annotated[Path | None, optional("FILE")] = None
    """Published values to show beside yours: a CSV file with task, setting, metric, model, value."""
    marks: Annotated[Path | None, optional("FILE")] = None
    """A file of failure-mode labels (docs/evaluation.md describes it)."""
    output: Annotated[Path | None, optional("FILE")] = None
    """The page to write (else comparison.html in the project)."""

    def run(self, console: Console) -> None:
        """Write the page. Raises MissingError, DataError, StorageError."""
        from heedful.align.people_evaluation import judged_records
        from heedful.align.who_labels import labelers_of
        from heedful.evaluate.comparison_page import ComparisonPage, write_comparison_page
        from heedful.evaluate.failure_modes import Marks, failure_rates, read_marks
        from heedful.evaluate.people_comparison import compare_by_people
        from heedful.evaluate.table_14 import read_benchmarks, read_other_values, table_14

        project = load_project(self.project)
        labelers = labelers_of(project)
        folder = self._run_folder(project)
        judged = judged_records(labelers, labelers.known(), folder)
        people = compare_by_people(judged, baseline=_baseline(folder)) if judged.rankings else None
        results = None if self.benchmarks is None else read_benchmarks(self.benchmarks)
        others = None if self.table14 is None else read_other_values(self.table14)
        models = sorted({str(one.model) for one in judged.responses.values()})
        page = ComparisonPage(
            project=project.name,
            title=f"comparison of {len(models)} models",
            simulated=labelers.marked == "simulated",
            people=people,
            judged=judged,
            table=() if results is None else table_14(results, others),
            benchmark_models=() if results is None else results["models"],
            benchmark_notes=() if results is None else results.get("notes", []),
            failures=failure_rates(judged, Marks() if self.marks is None else read_marks(self.marks), models),
        )
        output = self.output or project.folder / "comparison.html"
        write_comparison_page(page, output)
        say(console, f"page: {output}")

    def _run_folder(self, project: Project) -> Path:
        from heedful.project.runs import newest_done

        if self.judged is not None:
            folder = project.runs / self.judged
            if (folder / "responses.jsonl").is_file():
                return folder
        else:
            newest = next((found for name in ("people", "evaluate") if (found := newest_done(project.runs, name))), None)
            if newest is not None:
                return newest
        raise MissingError(
            "there is no evaluation to compare models by",
            expected="a run of `heedful evaluate people`, or of the evaluation of `heedful align`",
            got=repr(self.judged) if self.judged else "no such run",
            where=project.runs,
            next_step="run `heedful align`, or `heedful evaluate people`",
        )


def _baseline(folder: Path) -> str:
    """The baseline that a people run names, or the SFT model for the project's own evaluation."""
    from heedful.evaluate.lineup import BASELINE

    try:
        return str(json.loads((folder / "results.json").read_text(encoding="utf-8"))["baseline"])
    except (OSError, ValueError, KeyError, TypeError):
        return BASELINE.name
