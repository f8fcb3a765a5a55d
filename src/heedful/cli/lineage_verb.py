"""``heedful lineage``: what a model was made from, and where a record went."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from heedful.cli.options import Flag, ProjectFolder, load_project, optional

if TYPE_CHECKING:
    from heedful.lineage.subjects import Subject
    from heedful.project.project import Project


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Show what a model was made from, or which runs and models used a record.

    - For a model (ppo_ptx, a run such as ppo_ptx-1, a run's folder, the
      folder of a released model, or a project's folder for its current
      policy): every run, setting, code version, labeler and version of the
      instructions behind it.
    - For the id of a prompt, response, demonstration, ranking or rating; an
      owner of prompts; or a vote, an edit or a critique in the playground (its
      id in labels.jsonl): every run that received it, and every model that may
      have learned from it.
    - For a turn of the playground or a request of the API (its key, the field
      usage in exports): the same for all that came from it.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL|RECORD|OWNER|VOTE|...")]
    """What to look up."""
    project: ProjectFolder = Path()
    kind: Annotated[Literal["model", "vote", "edit", "critique", "record", "owner", "turn"] | None, optional("KIND")] = None
    """What the name is: model, vote, edit, critique, record, owner or turn (else the first of these that matches)."""
    json: Flag = False
    """Print JSON instead of a tree, with every setting and count."""

    def run(self, console: Console) -> None:
        """Print the tree, or JSON. Raises MissingError if nothing has this name, DataError for a broken file."""
        from heedful.labeling.database.locating import if_there
        from heedful.lineage.subjects import subject_of
        from heedful.lineage.tracing import LINEAGE

        if self.kind in (None, "model") and (Path(self.name) / LINEAGE).is_file():
            self._show(None, subject_of(None, self.name))
            return
        folder = self._project_of_name() or self.project
        project = load_project(folder)
        name = _policy_of(project) if folder.absolute() == Path(self.name).absolute() else self.name
        with if_there(project.folder) as database:
            subject = subject_of(project, name, kind=self.kind, database=database)
        self._show(project, subject)

    def _project_of_name(self) -> Path | None:
        """The project that a folder given as a name is, or lies in; None with --project, and for all other names."""
        from heedful.project.project import CONFIG_FILE

        named = Path(self.name)
        if self.project != Path() or self.kind not in (None, "model") or not named.is_dir():
            return None
        whole = named.absolute()
        return next((folder for folder in (named, *whole.parents) if (folder / CONFIG_FILE).is_file()), None)

    def _show(self, project: Project | None, subject: Subject) -> None:
        from heedful.lineage.lineage_tree import show_model, show_use
        from heedful.lineage.run_graph import every_run
        from heedful.lineage.tracing import model_lineage, use_of

        if subject.run is not None:
            lineage = subject.released
            if lineage is None:
                assert project is not None
                lineage = model_lineage(project, subject.run)
            if self.json:
                _print_json(lineage)
            else:
                show_model(lineage, Console())
            return
        assert project is not None
        runs = every_run(project)
        use = use_of(project, subject.ids, runs)
        if self.json:
            _print_json(
                {
                    "kind": subject.kind,
                    "name": subject.name,
                    "notes": list(subject.notes),
                    "ids": sorted(use.ids),
                    "given_to": list(use.given_to),
                    "doubtful": list(use.doubtful),
                    "built_on": list(use.built_on),
                    "models": list(use.models),
                }
            )
        else:
            show_use(subject, use, runs, Console())


def _policy_of(project: Project) -> str:
    """The run of a project's current policy. Raises MissingError."""
    from heedful.errors import MissingError
    from heedful.project.ended_rounds import newest_policy

    run = newest_policy(project.runs)
    if run is None:
        raise MissingError(
            "this project has no policy yet",
            expected="a finished run of ppo_ptx or ppo",
            got="none",
            where=project.runs,
            next_step=f"name another model, such as `heedful lineage sft --project {project.folder}`, "
            f"or run `heedful align {project.folder}`",
        )
    return run.name


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
