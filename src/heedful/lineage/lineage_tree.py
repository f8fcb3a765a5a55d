"""Print lineage as a tree on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from heedful.lineage.run_graph import RunNode
from heedful.lineage.subjects import Subject
from heedful.lineage.tracing import RecordUse
from heedful.project.structure import printable

_SETTINGS = ("learning_rate", "epochs", "batch_size", "episodes", "beta", "kl_coefficient", "ptx_coefficient", "seed")
"""Settings that the tree shows; --json prints all."""


def show_model(lineage: Mapping[str, Any], console: Console) -> None:
    """Print what a model was made from."""
    runs: Sequence[Mapping[str, Any]] = lineage["runs"]
    rows = {row["run"]: row for row in runs}
    tree = _tree(f"{lineage['model']} of the project {lineage['project']}")
    _add_run(tree, rows, str(lineage["model"]), set())
    data = tree.add(_line("data"))
    for kind, counts in lineage["data"].items():
        if counts["count"]:
            data.add(_line(f"{counts['count']:,} {kind}{_by(counts)}"))
    people = tree.add(_line(f"labelers ({len(lineage['labelers'])})" if lineage["labelers"] else "labelers: none are recorded"))
    for name, labels in lineage["labelers"].items():
        group = f", {labels['group'].replace('_', '-')} group" if "group" in labels else ""
        counted = ", ".join(f"{count:,} {kind}" for kind, count in labels.items() if isinstance(count, int))
        people.add(_line(f"{name}: {counted or 'labels that are no longer there'}{group}"))
    instructions = tree.add(_line("instructions" if lineage["instructions"] else "instructions: none are recorded"))
    for kind, versions in lineage["instructions"].items():
        instructions.add(_line(f"{kind}: {', '.join(_version(version, count) for version, count in versions.items())}"))
    code = tree.add(_line("code" if lineage["code"] else "code: not recorded"))
    for one in lineage["code"]:
        commit = f", commit {one['commit']}" if one["commit"] else ""
        code.add(_line(f"heedful {one['heedful']}, sources {one['sources']}{commit}"))
    if lineage["unknown"]:
        unknown = tree.add(_line("not recorded"))
        for what in lineage["unknown"]:
            unknown.add(_line(what))
    console.print(tree, soft_wrap=True)


def show_use(subject: Subject, use: RecordUse, runs: Mapping[str, RunNode], console: Console) -> None:
    """Print what used a record, an owner's records, or what people said in the playground."""
    tree = _tree(subject.name if subject.kind == "record" else f"{subject.kind} {subject.name}")
    for note in subject.notes:
        tree.add(_line(note))
    if not (use.given_to or use.doubtful):
        tree.add(_line("no run was given it"))
    else:
        _add_names(tree, "given to", use.given_to, runs)
        _add_names(tree, "perhaps given to (runs of an older version do not say)", use.doubtful, runs)
        _add_names(tree, "runs that build on these", use.built_on, runs)
        tree.add(
            _line(
                f"models that may have learned from it: {', '.join(use.models)}" if use.models else "no model was made from it"
            )
        )
    console.print(tree, soft_wrap=True)


def _add_run(tree: Tree, rows: Mapping[str, Mapping[str, Any]], name: str, shown: set[str]) -> None:
    row = rows.get(name)
    if row is None:
        return
    if name in shown:
        tree.add(_line(f"{name} (as above)"))
        return
    shown.add(name)
    state = f"ended {row['ended']}" if row["done"] else "not finished"
    again = ", to be retrained: an owner was forgotten" if row.get("to_retrain") else ""
    branch = tree.add(_line(f"{name}: {state}{again}"))
    settings = {key: value for key, value in (row["config"] or {}).items() if key in _SETTINGS}
    if settings:
        branch.add(_line(", ".join(f"{key} {value}" for key, value in settings.items())))
    if counted := ", ".join(f"{count:,} {kind}" for kind, count in row.get("records", {}).items() if count):
        branch.add(_line(f"was given {counted}"))
    for what, given in row.get("inputs", {}).items():
        branch.add(_line(f"{what.replace('_', ' ')}: {given['path']} (digest {given['digest']})"))
    for parent in row["parents"]:
        _add_run(branch, rows, parent, shown)


def _add_names(tree: Tree, title: str, names: Sequence[str], runs: Mapping[str, RunNode]) -> None:
    if names:
        branch = tree.add(_line(title))
        for name in names:
            run = runs[name]
            more = ["with a model"] if run.has_model else []
            more += [f"ended {run.ended}" if run.done else "not finished"]
            more += ["to be retrained"] if run.to_retrain else []
            branch.add(_line(f"{name}: {', '.join(more)}"))


def _by(counts: Mapping[str, Any]) -> str:
    parts = [
        ", ".join(f"{count:,} {name}" for name, count in counts[key].items())
        for key in ("by_split", "by_source")
        if counts.get(key)
    ]
    parts += [f"{counts['no_longer_there']:,} no longer there"] if "no_longer_there" in counts else []
    return f" ({'; '.join(parts)})" if parts else ""


def _version(version: str, count: int) -> str:
    known = "no version recorded" if version == "unknown" else f"version {version}"
    return f"{known} ({count:,} labels)" if count else f"{known} (its labels are no longer there)"


def _tree(title: str) -> Tree:
    return Tree(Text(printable(title), style="bold"))


def _line(text: str) -> Text:
    return Text(printable(text))
