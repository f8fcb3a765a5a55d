"""Import data into a project's records: nothing is dropped silently, nothing is added twice.

Each row is accepted (it added a record), merged (everything in it was there already), rejected (kept in ``rejected.jsonl`` with
file, line and reason) or skipped (a good row with nothing to import; counted by reason). Prompts with the same text are one
prompt. Prompts are split by user or, if there is none, by the start of the conversation, so that neither a user nor a
conversation is in two splits (SPEC 1.3).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, get_args

from heedful.conversation import continuation, opening
from heedful.errors import ConfigError
from heedful.project.data_folder import RECORD_TYPES, Kind, Record, Records, broken_reference, kind_of
from heedful.project.files import Row, bad_character, locked, read_jsonl, write_jsonl
from heedful.project.fitting_formats import draft_of, format_that_fits, groups_of, nothing_usable
from heedful.project.formats import FORMATS
from heedful.project.formats.rows import BadRow, Draft, SkippedRow, content_id
from heedful.project.owners import Forgotten, composed, split_name
from heedful.project.refusals import MARKS, marks_in
from heedful.project.selection import all_in_one_split
from heedful.project.storable import LONGEST_ID
from heedful.project.structure import nearest
from heedful.project.table_files import rows_of_any_file
from heedful.records import Demonstration, Prompt, Response, Split

SplitBy = Literal["user", "prompt"]

REJECTED = "rejected.jsonl"
"""In the data folder: one ``{"file", "line", "reason", "row"}`` per rejected row, of all imports."""

AUTO = "auto"
"""As a format's name: detect the format from the file's rows."""

_SHOWN_REASONS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What happened to each row: ``read == accepted + merged + rejected + sum(skipped.values())``."""

    format: str
    file: str
    read: int
    accepted: int
    merged: int
    rejected: int
    skipped: Mapping[str, int]
    """Rows with nothing to import, by reason."""
    added: Mapping[Kind, int]
    """New records by kind."""
    prompts_merged: int
    """How often a prompt's text was there already."""
    splits: Mapping[Split, int]
    """New prompts by split."""
    notes: Mapping[str, int]
    """Parts of accepted rows that were left out or changed, by reason."""
    reasons: Sequence[str]
    """``line N: reason`` of every rejected row."""
    rejected_file: str
    one_split: str | None = None
    """Why nothing can be evaluated: all prompts are in one split because they belong to one user."""

    def summary(self) -> str:
        """A short table for people."""
        lines = [
            f"{self.format} import of {self.file}",
            f"  {'rows read':<12}{self.read:>8}",
            f"  {'accepted':<12}{self.accepted:>8}",
        ]
        lines.append(f"  {'merged':<12}{self.merged:>8}  already there")
        lines.append(f"  {'rejected':<12}{self.rejected:>8}" + (f"  kept in {self.rejected_file}" if self.rejected else ""))
        lines += [f"  {'':<22}{reason}" for reason in self.reasons[:_SHOWN_REASONS]]
        if len(self.reasons) > _SHOWN_REASONS:
            lines.append(f"  {'':<22}and {len(self.reasons) - _SHOWN_REASONS} more")
        lines.append(f"  {'skipped':<12}{sum(self.skipped.values()):>8}")
        lines += [f"  {'':<12}{count:>8}  {reason}" for reason, count in self.skipped.items()]
        lines.append("  added       " + (_listed({f"{kind}s": count for kind, count in self.added.items()}) or "nothing"))
        if self.splits:
            lines.append(f"  splits      {_listed(self.splits)}")
        if self.prompts_merged:
            lines.append(f"  {self.prompts_merged} times a prompt was there already: merged with it")
        lines += [f"  note: {count} {note}" for note, count in self.notes.items()]
        if self.one_split is not None:
            lines.append(f"  warning: {self.one_split}")
        return "\n".join(lines)

    __str__ = summary


def _listed(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def import_file(
    format: str,
    path: str | Path,
    project_data_folder: str | Path,
    *,
    labeler: str | None = None,
    split_shares: tuple[float, float, float] = (0.8, 0.1, 0.1),
    split_by: SplitBy = "user",
    seed: int = 0,
) -> ImportReport:
    """Add the records of a file to a data folder.

    ``split_by``: whether all prompts of a user share a split, or only those of a conversation do.
    ``labeler`` names who answered or ranked, for rows that do not say so (default: the format's name). ``split_shares`` are the
    shares of train, valid and test. Raises ConfigError for an unknown format or bad shares, MissingError for a missing file,
    DataError if no row is usable or the data folder is broken, StorageError for a full disk; then nothing was changed.
    """
    _check_format(format)
    _check_shares(split_shares)
    _check_labeler(labeler)
    path, folder = Path(path), Path(project_data_folder)
    rows = list(rows_of_any_file(path))
    if format == AUTO:
        format = format_that_fits(path, rows)
    drafts, rejected, skipped = _drafts_of(format, rows, labeler)
    with locked(folder):
        merge = _Merge(Records.load(folder), split_shares, split_by, seed, Forgotten(folder))
        accepted = 0
        for group, draft in drafts:
            try:
                accepted += merge.add(draft) * len(group)
            except _OfForgotten as bad:
                rejected += [(Row(row.line), str(bad)) for row in group]  # the reason is kept, the text is not
            except BadRow as bad:
                rejected += [(row, str(bad)) for row in group]
        if len(rejected) + sum(skipped.values()) == len(rows):
            raise nothing_usable(format, path, rows, rejected, skipped)
        rejected.sort(key=lambda each: each[0].line)
        _keep_aside(folder, path, rejected)
        if accepted or merge.notes[_MARKED]:
            merge.records.save(folder)
    return ImportReport(
        format=format,
        file=str(path),
        read=len(rows),
        accepted=accepted,
        merged=len(rows) - accepted - len(rejected) - sum(skipped.values()),
        rejected=len(rejected),
        skipped=dict(skipped),
        added=dict(merge.added),
        prompts_merged=merge.prompts_merged,
        splits={split: merge.splits[split] for split in get_args(Split) if merge.splits[split]},
        notes=dict(merge.notes),
        reasons=[f"line {row.line}: {reason}" for row, reason in rejected],
        rejected_file=str(folder / REJECTED),
        one_split=all_in_one_split(merge.records.prompts.values()),
    )


def _check_format(format: str) -> None:
    if format not in FORMATS and format != AUTO:
        meant = nearest(format, FORMATS)
        raise ConfigError(
            f"there is no import format {format!r}",
            expected=", ".join([AUTO, *FORMATS]),
            got=repr(format),
            next_step=f"did you mean {meant!r}?" if meant else None,
        )


def _check_shares(shares: tuple[float, float, float]) -> None:
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ConfigError(
            "the split shares are not shares",
            expected="three numbers from 0 to 1, for train, valid and test, with sum 1",
            got=str(shares),
        )


def _check_labeler(labeler: str | None) -> None:
    if labeler is not None and (not labeler.strip() or len(labeler) > LONGEST_ID or bad_character(labeler)):
        raise ConfigError(
            "this is not a labeler's name", expected=f"1 to {LONGEST_ID} characters", got=f"{len(labeler):,} characters"
        )


# ---------------------------------------------------------------------------------------------------- rows


def _drafts_of(
    format: str, rows: Sequence[Row], labeler: str | None
) -> tuple[list[tuple[list[Row], Draft]], list[tuple[Row, str]], Counter[str]]:
    """The rows as drafts, dependencies first; the rejected rows with reasons; the skipped rows counted by reason."""
    drafts: list[tuple[list[Row], Draft]] = []
    rejected: list[tuple[Row, str]] = []
    skipped: Counter[str] = Counter()
    for group in groups_of(format, rows):
        try:
            drafts.append((group, draft_of(format, group, labeler)))
        except BadRow as bad:
            rejected += [(row, str(bad)) for row in group]
        except SkippedRow as skip:
            skipped[str(skip)] += len(group)
    drafts.sort(key=lambda each: _first_kind(each[1]))
    return drafts, rejected, skipped


def _first_kind(draft: Draft) -> int:
    return list(RECORD_TYPES).index(kind_of(draft.records[0])) if draft.records else 0


# ---------------------------------------------------------------------------------------------------- merging


class _OfForgotten(BadRow):
    """The row holds text of an owner who asked to be forgotten."""


_MARKED = "prompts that were there already are marked for refusals now"


@dataclass(slots=True)
class _Merge:
    """Records to which rows are added one by one; each row is added completely or not at all."""

    records: Records
    shares: tuple[float, float, float]
    split_by: SplitBy
    seed: int
    forgotten: Forgotten
    by_text: dict[str, str] = field(init=False)
    """Prompt id by text."""
    split_of: dict[str, Split] = field(init=False)
    """Split by group (user or opening): all prompts of a group go where its first one went, whatever the seed and shares."""
    same_as: dict[str, str] = field(default_factory=dict[str, str])
    """Ids of merged prompts to the id that was kept."""
    added: Counter[Kind] = field(default_factory=Counter[Kind])
    splits: Counter[Split] = field(default_factory=Counter[Split])
    notes: Counter[str] = field(default_factory=Counter[str])
    prompts_merged: int = 0

    def __post_init__(self) -> None:
        self.by_text, self.split_of = {}, {}
        for prompt in self.records.prompts.values():
            self.by_text.setdefault(prompt.text, prompt.id)
            self.split_of.setdefault(self._group(prompt), prompt.split)

    def add(self, draft: Draft) -> bool:
        """Add what is new in a row; return whether anything was. If it raises BadRow, nothing was added."""
        new: list[Record] = []
        try:
            for record in draft.records:
                self._refuse_forgotten(record)
                record = self._prompt(record, draft) if isinstance(record, Prompt) else self._label(record)
                if record is not None:
                    self.records.by_kind(kind_of(record))[record.id] = record
                    new.append(record)
            self._check_seen(draft)
        except BadRow:
            for record in new:
                del self.records.by_kind(kind_of(record))[record.id]
            raise
        for record in new:
            self.added[kind_of(record)] += 1
            if isinstance(record, Prompt):
                self.by_text[record.text] = record.id
                self.split_of.setdefault(self._group(record), record.split)
                self.splits[record.split] += 1
        self.prompts_merged += sum(isinstance(r, Prompt) for r in draft.records) - sum(isinstance(r, Prompt) for r in new)
        if new:
            self.notes.update(draft.notes)
        return bool(new)

    def _refuse_forgotten(self, record: Record) -> None:
        """Raise if a forgotten owner's prompt would come back: under the owner's name, without an owner, or through a label."""
        if isinstance(record, Prompt):
            ids = (record.id, content_id("prompt", record.text))
            refused = self.forgotten.owner(record.user) or (record.user is None and any(map(self.forgotten.prompt, ids)))
        else:
            refused = record.prompt_id not in self.records.prompts and self.forgotten.prompt(record.prompt_id)
        if refused:
            raise _OfForgotten("the owner asked to be forgotten")

    def _take_marks(self, there: Prompt, prompt: Prompt) -> None:
        """A prompt that is there already gets the marks for refusals that come with it."""
        marks = marks_in(prompt.metadata)
        if marks and marks != marks_in(there.metadata):
            metadata = {key: value for key, value in there.metadata.items() if key not in MARKS}
            self.records.prompts[there.id] = replace(there, metadata={**metadata, **marks})
            self.notes[_MARKED] += 1

    def _prompt(self, prompt: Prompt, draft: Draft) -> Prompt | None:
        there = self.records.prompts.get(prompt.id)
        if there is not None and there.text != prompt.text:
            raise _taken(prompt)
        if there is not None:
            self._take_marks(there, prompt)
            return None  # under its own id, even where another prompt has the same text
        kept = self.by_text.get(prompt.text)
        if kept is not None:
            self.same_as[prompt.id] = kept
            self._take_marks(self.records.prompts[kept], prompt)
            return None
        if prompt.user is not None:
            prompt = replace(prompt, user=composed(prompt.user))
        group = self._group(prompt)
        if not draft.split_given:
            return replace(prompt, split=self.split_of.get(group) or _split(group, self.shares, self.seed))
        if self.split_of.get(group, prompt.split) != prompt.split:
            draft.notes.append("prompts in another split than their user's or conversation's others, as the row says")
        return prompt

    def _group(self, prompt: Prompt) -> str:
        by_user = self.split_by == "user" and prompt.user is not None
        return f"user {split_name(prompt.user or '')}" if by_user else f"text {opening(prompt.turns)}"

    def _label(self, record: Record) -> Record | None:
        assert not isinstance(record, Prompt)
        record = replace(record, prompt_id=self.same_as.get(record.prompt_id, record.prompt_id))
        problem = broken_reference(record, self.records.prompts, self.records.responses)
        if problem is not None:
            raise BadRow(f"the {kind_of(record)} names {problem}")
        there = self.records.by_kind(kind_of(record)).get(record.id)
        if there is not None and self._bare(there) != self._bare(record):
            raise _taken(record)
        return record if there is None else None

    def _bare(self, record: Record) -> Record:
        """What two equal labels share: all but metadata. Texts are compared as continuations, as in older records."""
        if isinstance(record, Response | Demonstration):
            turns = self.records.prompts[record.prompt_id].turns
            record = replace(record, text=continuation(turns, record.text))
        return replace(record, metadata={}) if hasattr(record, "metadata") else record

    def _check_seen(self, draft: Draft) -> None:
        for id, text in draft.seen.items():
            stored = self.records.responses.get(id) or self.records.prompts.get(self.same_as.get(id, id))
            if stored is not None and stored.text != text:
                raise BadRow(f"the task shows another text for {id!r} than the one that is stored")


def _taken(record: Record) -> BadRow:
    return BadRow(f"the id {record.id!r} is taken by a {kind_of(record)} with other content: labels are never overwritten")


def _split(group: str, shares: tuple[float, float, float], seed: int) -> Split:
    """A split drawn from seed and group name alone, so that it does not depend on the order of the rows."""
    draw = int.from_bytes(blake2b(f"{seed} {group}".encode(errors="surrogatepass"), digest_size=8).digest(), "big") / 2**64
    return "train" if draw < shares[0] else "valid" if draw < shares[0] + shares[1] else "test"


# ---------------------------------------------------------------------------------------------------- kept aside


def _keep_aside(folder: Path, path: Path, rejected: Iterable[tuple[Row, str]]) -> None:
    """Add to ``rejected.jsonl`` what is not in it yet."""
    file = folder / REJECTED
    there = [row for _, row in read_jsonl(file)] if file.exists() else []
    known = {json.dumps(row, sort_keys=True) for row in there}
    name = str(path.resolve())
    rows = [
        {"file": name, "line": row.line, "reason": reason, "row": row.raw if row.problem is not None else row.value}
        for row, reason in rejected
    ]
    new = [row for row in rows if json.dumps(row, sort_keys=True) not in known]
    if new:
        write_jsonl(file, there + new)
