"""The rankings to measure a reward model on: a project's, for prompts it was not trained on, or those of a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from heedful.errors import DataError, MissingError
from heedful.labeling.database.locating import database_of, existing
from heedful.labeling.exchange.asking import stored_prompts, stored_responses
from heedful.labeling.exchange.labels import stored_rankings
from heedful.project.data_folder import Records, file_name
from heedful.project.importing import AUTO, import_file
from heedful.project.project import Project
from heedful.project.selection import training_rankings
from heedful.records import Prompt, Ranking, Response

_SHOWN_ROWS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedRecords:
    """Rankings of at least two responses each, with the prompts and responses that they name."""

    prompts: Mapping[str, Prompt]
    responses: Mapping[str, Response]
    rankings: Sequence[Ranking]
    source: str
    """The name of the project or of the file."""
    notes: tuple[str, ...] = ()
    """What was left out, and who ranked."""


def rankings_of_project(project: Project, database: str | None = None) -> RankedRecords:
    """Return all rankings of prompts outside the split train, from the project's records and its labeling database.

    A ranking in both counts once. Screening answers are left out and counted. Raises MissingError if there is no ranking.
    """
    records = _all_records(project, database)
    unseen = [r for r in records.rankings.values() if records.prompts[r.prompt_id].split != "train"]
    used = [ranking for ranking in unseen if ranking.phase != "screening"]
    if not used:
        raise MissingError(
            "the project has no rankings of prompts that the reward model was not trained on",
            expected="rankings of prompts in the splits valid or test",
            got=f"{len(records.rankings):,} rankings, of which {len(unseen):,} of such prompts",
            where=project.folder,
            next_step="collect rankings of such prompts with `heedful web`, or give other rankings with --rankings FILE",
        )
    notes = [f"{len(used):,} rankings of prompts that the reward model was not trained on (splits valid and test)"]
    if len(used) < len(unseen):
        notes.append(f"{len(unseen) - len(used):,} screening rankings are left out")
    return _ranked(records, used, project.name, notes)


def rankings_of_file(path: Path) -> RankedRecords:
    """Return all rankings of a file in any format that ``heedful import`` reads, of any split and phase.

    A file ``rankings.jsonl`` uses the ``prompts.jsonl`` and ``responses.jsonl`` beside it. Unusable rows are named.
    Raises MissingError, and DataError for a file without any ranking.
    """
    notes: list[str] = []
    with TemporaryDirectory(prefix="heedful-rankings-") as folder:
        if path.name == file_name("ranking"):
            for kind in ("prompt", "response"):
                if (beside := path.with_name(file_name(kind))).is_file():
                    import_file("heedful", beside, folder)
        report = import_file(AUTO, path, folder)
        records = Records.load(folder)
    notes.append(f"{path.name}: {report.read:,} rows of the format {report.format}")
    if report.rejected:
        shown = "; ".join(report.reasons[:_SHOWN_ROWS])
        more = f"; and {report.rejected - _SHOWN_ROWS:,} more" if report.rejected > _SHOWN_ROWS else ""
        notes.append(f"rows that cannot be used: {report.rejected:,} ({shown}{more})")
    notes += [f"rows with nothing to use: {count:,} ({reason})" for reason, count in report.skipped.items()]
    notes += [f"{count:,} {note}" for note, count in report.notes.items()]
    if not records.rankings:
        raise DataError(
            "the file holds no rankings",
            expected="rankings or preferences, in a format that `heedful import` reads",
            got=f"{len(records.prompts):,} prompts and {len(records.demonstrations):,} demonstrations",
            where=path,
        )
    return _ranked(records, list(records.rankings.values()), path.name, notes)


def training_rankings_of(project: Project, measured: RankedRecords) -> RankedRecords:
    """Return the reward model's training rankings without the measured prompts. The bag of words learns from them."""
    records = Records.load(project.data) if project.data.is_dir() else Records()
    texts = {measured.prompts[ranking.prompt_id].text for ranking in measured.rankings}
    rankings = [r for r in training_rankings(records, "train") if records.prompts[r.prompt_id].text not in texts]
    return RankedRecords(prompts=records.prompts, responses=records.responses, rankings=rankings, source=project.name)


def _all_records(project: Project, database: str | None) -> Records:
    records = Records.load(project.data) if project.data.is_dir() else Records()
    where = database_of(project.folder, database)
    if isinstance(where, Path) and not where.is_file():
        return records
    with existing(where) as opened, opened.read() as connection:
        new = {r.id: r for r in stored_rankings(connection) if r.id not in records.rankings}
        prompts = {r.prompt_id for r in new.values()} - set(records.prompts)
        responses = {name for r in new.values() for name in r.response_ids} - set(records.responses)
        records.prompts.update({p.id: p for p in stored_prompts(connection, prompts) if isinstance(p, Prompt)})
        records.responses.update({r.id: r for r in stored_responses(connection, responses) if isinstance(r, Response)})
        records.rankings.update(new)
    return records


def _ranked(records: Records, rankings: Sequence[Ranking], source: str, notes: Sequence[str]) -> RankedRecords:
    several = [ranking for ranking in rankings if len(ranking.response_ids) > 1]
    said = list(notes)
    if len(several) < len(rankings):
        said.append(f"{len(rankings) - len(several):,} rankings of a single response are left out")
    simulated = sum(bool(ranking.metadata.get("simulated")) for ranking in several)
    if simulated:
        said.append(f"{simulated:,} of {len(several):,} rankings are by simulated labelers")
    phases = Counter(ranking.phase for ranking in several)
    if len(phases) > 1:
        said.append("phases: " + ", ".join(f"{count:,} rankings for {phase}" for phase, count in sorted(phases.items())))
    return RankedRecords(
        prompts=records.prompts, responses=records.responses, rankings=several, source=source, notes=tuple(said)
    )
