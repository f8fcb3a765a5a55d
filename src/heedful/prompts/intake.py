"""``heedful prompts import``: turn what users submitted into prompts of a project, cleaned as in the paper (SPEC 1.2).

A row is added, was there already, or is left out for one reason. The reason is counted and kept in ``data/rejected.jsonl`` with
file and line, but without the text, which may have to stay out. Reasons are checked in this order: unreadable or empty, no
consent, a forgotten owner, too long, personal data if the owner's split is train, duplicate, the owner's cap.

A hash of owner and text decides which of several duplicates is kept, and which prompts of an owner stay below the cap; stored
prompts come first. So neither the order of the rows nor a second import changes the result. The file is read twice: the first
reading keeps only hashes, the second writes the chosen prompts. The texts are never in memory together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from heedful.errors import ConfigError, DataError
from heedful.project.data_folder import file_name, record_to_json
from heedful.project.files import Row, locked, read_jsonl, write_jsonl
from heedful.project.formats.rows import BadRow, content_id
from heedful.project.importing import REJECTED
from heedful.project.owners import OwnerKey
from heedful.project.selection import one_split_warning
from heedful.project.structure import nearest
from heedful.prompts.duplicates import PREFIX_LENGTH, prefix_key, spoken_text
from heedful.prompts.language import language_of_turns
from heedful.prompts.personal import Finder, check_region, personal_data_in
from heedful.prompts.reading import INTAKES, LeftOut, Submission, owner_of, read_submission
from heedful.prompts.row_sources import RowSource, of_file
from heedful.prompts.stored_prompts import StoredPrompts, hash_of, identity_of
from heedful.records import Prompt, Source, Split

MAX_LENGTH = 1_024
"""Tokens (SPEC 1.2: 1k), or words if no tokenizer is given."""
MAX_PER_OWNER = 200
"""Prompts per user or organisation (SPEC 1.2)."""

CATEGORIES = (
    "unreadable",
    "no consent",
    "forgotten owner",
    "too long",
    "personal data in train",
    "duplicate",
    "owner's cap",
)
"""Why a row is left out, in the order in which the reasons are checked."""

_SHOWN_REASONS = 5
_SPLITS: tuple[Split, ...] = get_args(Split)


def count_words(text: str) -> int:
    """Number of words, separated by white space; used if no tokenizer is given."""
    return len(text.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaning:
    """What is left out, and how it is found."""

    max_length: int = MAX_LENGTH
    """Longest prompt, in the unit of ``length``."""
    length: Callable[[str], int] = count_words
    """Length of a text."""
    unit: str = "words"
    """What ``length`` counts."""
    max_per_owner: int = MAX_PER_OWNER
    """Most prompts of one owner."""
    region: str = "US"
    """Country of phone numbers without a country code."""
    names: Finder | None = None
    """Finds people's names, which the patterns do not find."""

    def __post_init__(self) -> None:
        for name in ("max_length", "max_per_owner"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is out of range", expected="at least 1", got=str(getattr(self, name)))
        check_region(self.region)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeReport:
    """What happened to each row: ``read == added + already_there + sum(left_out.values())``."""

    format: str
    file: str
    read: int
    added: int
    already_there: int
    left_out: Mapping[str, int]
    """Rows by category, in the order of CATEGORIES."""
    splits: Mapping[Split, int]
    """New prompts by split."""
    owners: int
    """Owners of the new prompts."""
    without_owner: int
    """New prompts without an owner: split by their text, without a cap."""
    flagged: int
    """New prompts of valid and test with personal data: kept, for review."""
    reasons: tuple[str, ...]
    """``line N: reason`` of the first rows that were left out."""
    rejected_file: str
    notes: Mapping[str, int]
    """Keys of readable rows that were not used."""
    one_split: str | None
    """Why nothing can be evaluated: all prompts of the project are in one split because they belong to few users."""


def import_prompts(
    format: str,
    path: str | Path | RowSource,
    data: str | Path,
    *,
    source: Source = "imported",
    cleaning: Cleaning | None = None,
) -> IntakeReport:
    """Add the prompts of a file, or other rows, to a data folder; importing it again adds nothing.

    source: for rows that do not name one (requests to the API are from customers). Raises ConfigError for an unknown format,
    MissingError for a missing file, DataError if no row is readable or the data folder is broken, StorageError for a full
    disk; then no prompt was added.
    """
    if format not in INTAKES:
        meant = nearest(format, INTAKES)
        raise ConfigError(
            f"there is no prompt format {format!r}",
            expected=", ".join(INTAKES),
            got=repr(format),
            next_step=f"did you mean {meant!r}?" if meant else None,
        )
    rows = path if isinstance(path, RowSource) else of_file(Path(path))
    data, cleaning = Path(data), cleaning or Cleaning()
    with locked(data):
        stored = StoredPrompts.read(data)
        found = _read_once(format, rows, stored, cleaning)
        _refuse_unreadable(format, rows, found)
        already_there = _choose(found, stored, cleaning.max_per_owner)
        _keep_aside(data, rows, found.left_out, stored.key)
        written = _Written()
        if len(found.table):
            prompts = data / file_name("prompt")
            there = (row for _, row in read_jsonl(prompts)) if prompts.exists() else ()
            new = _new_prompts(format, rows, found, source, written)
            write_jsonl(prompts, chain(there, map(record_to_json, new)))
    categories = Counter(out.category for out in found.left_out)
    first = sorted(found.left_out, key=lambda out: (out.line, out.reason))[:_SHOWN_REASONS]
    return IntakeReport(
        format=format,
        file=rows.where,
        read=found.read,
        added=len(found.table),
        already_there=already_there,
        left_out={category: categories[category] for category in CATEGORIES if categories[category]},
        splits={split: written.splits[split] for split in _SPLITS if written.splits[split]},
        owners=len(written.owners),
        without_owner=written.without_owner,
        flagged=written.flagged,
        reasons=tuple(f"line {out.line}: {out.reason}" for out in first),
        rejected_file=str(data / REJECTED),
        notes=dict(found.notes),
        one_split=one_split_warning(
            stored.number + len(found.table),
            stored.owners | written.owners | ({None} if written.without_owner else set[str | None]()),
            {*stored.splits.values(), *(split for split in _SPLITS if written.splits[split])},
        ),
    )


# ---------------------------------------------------------------------------------------------------- first reading


class _Candidate(NamedTuple):
    """A prompt that may be added, as numbers."""

    place: int
    """Among the rows, from 0."""
    line: int
    identity: int
    prefix: int
    """Key that duplicates share."""
    content: int
    """Of the id that the prompt gets."""
    owner: int
    """Place in ``_Found.owners``, or -1."""
    split: int
    """Place in ``_SPLITS``."""

    @property
    def id(self) -> str:
        return f"prompt-{self.content:016x}"


_CANDIDATES = np.dtype(list(zip(_Candidate._fields, ("i8", "i8", "u8", "u8", "u8", "i4", "i1"), strict=True)))
"""A table of candidates: 45 bytes for each, so a million of them fit in little memory."""


class _Out(NamedTuple):
    """A row that is left out."""

    line: int
    category: str
    reason: str
    owner: str | None


@dataclass(slots=True)
class _Found:
    """The file after the first reading, without its texts."""

    read: int = 0
    table: npt.NDArray[Any] = field(default_factory=lambda: np.empty(0, dtype=_CANDIDATES))
    """One row for each candidate, in the order of the file."""
    left_out: list[_Out] = field(default_factory=list[_Out])
    owners: dict[str, int] = field(default_factory=dict[str, int])
    """Number by name."""
    notes: Counter[str] = field(default_factory=Counter[str])
    personal: dict[int, tuple[str, ...]] = field(default_factory=dict[int, tuple[str, ...]])
    """Kinds of personal data by place, of candidates."""

    def candidates(self, order: Iterable[int]) -> Iterator[_Candidate]:
        return (_Candidate(*self.table[number].item()) for number in order)


def _read_once(format: str, rows: RowSource, stored: StoredPrompts, cleaning: Cleaning) -> _Found:
    found = _Found()
    found.table = np.fromiter(_candidates_of(format, rows, stored, cleaning, found), dtype=_CANDIDATES)
    return found


def _candidates_of(
    format: str, rows: RowSource, stored: StoredPrompts, cleaning: Cleaning, found: _Found
) -> Iterator[_Candidate]:
    """The candidates in a file; all other rows go to ``found.left_out``."""
    for place, row in enumerate(rows.rows()):
        found.read += 1
        try:
            if row.problem is not None:
                raise BadRow(row.problem)
            submission = read_submission(format, row.value)
            found.notes.update(submission.notes)
            split, personal = _checked(submission, stored, cleaning)
        except (BadRow, LeftOut) as out:
            category = out.category if isinstance(out, LeftOut) else "unreadable"
            found.left_out.append(_Out(row.line, category, str(out), owner_of(row.value)))
            continue
        if personal:
            found.personal[place] = personal
        text, owner = submission.text, submission.owner
        yield _Candidate(
            place=place,
            line=row.line,
            identity=identity_of(text, owner),
            prefix=prefix_key(spoken_text(submission.turns)),
            content=int(content_id("prompt", text).rpartition("-")[2], 16),
            owner=-1 if owner is None else found.owners.setdefault(owner, len(found.owners)),
            split=_SPLITS.index(split),
        )


def _checked(submission: Submission, stored: StoredPrompts, cleaning: Cleaning) -> tuple[Split, tuple[str, ...]]:
    """The split, and the kinds of personal data. Raises LeftOut for a reason that depends on this prompt alone."""
    text, owner = submission.text, submission.owner
    if stored.forgotten.owner(owner) or (owner is None and stored.forgotten.prompt(content_id("prompt", text))):
        raise LeftOut("forgotten owner", "the owner asked to be forgotten")
    length = cleaning.length(text)
    if length > cleaning.max_length:
        raise LeftOut("too long", f"too long: {length} {cleaning.unit}, at most {cleaning.max_length} are allowed")
    split = stored.split(submission.turns, owner)
    personal = personal_data_in(submission.turns, region=cleaning.region, more=cleaning.names)
    if personal and split == "train":
        raise LeftOut("personal data in train", f"personal data ({', '.join(personal)}) in a prompt of the split train")
    return split, personal


def _refuse_unreadable(format: str, rows: RowSource, found: _Found) -> None:
    sample = INTAKES[format].sample
    if not found.read:
        raise DataError(f"{rows.name} holds no rows", expected=sample, got="nothing", where=rows.where)
    unreadable = Counter(out.reason for out in found.left_out if out.category == "unreadable")
    if unreadable.total() == found.read:
        reason, count = unreadable.most_common(1)[0]
        raise DataError(
            f"no row of {rows.name} is usable as {format}",
            expected=sample,
            got=f"{reason} ({count} of {found.read} rows)",
            where=f"{rows.where}:{found.left_out[0].line}",
            next_step=f"bring the rows into one of: {', '.join(INTAKES)}",
        )


# ---------------------------------------------------------------------------------------------------- choosing


def _choose(found: _Found, stored: StoredPrompts, max_per_owner: int) -> int:
    """Reduce the table to the candidates to add; returns how many are stored already.

    It goes through the candidates in the order of their hashes, and keeps each whose prefix is new and whose owner has room.
    So every candidate that is not kept is a duplicate of one that is kept, or its owner has reached the cap: a second import of
    the file gives the same result. The sets of ``stored`` are changed.
    """
    names, ids = list(found.owners), stored.prefixes
    counts = [stored.counts[name] for name in names]
    order = np.argsort(found.table["identity"], kind="stable")
    kept, dropped = np.zeros(len(order), dtype=bool), np.zeros(len(order), dtype=bool)
    for number, candidate in zip(order.tolist(), found.candidates(order), strict=True):
        if candidate.identity in stored.identities:
            stored.identities.remove(candidate.identity)
        elif candidate.prefix in ids or (candidate.owner >= 0 and counts[candidate.owner] >= max_per_owner):
            dropped[number] = True
        else:
            kept[number] = True
            ids[candidate.prefix] = candidate.id
            if candidate.owner >= 0:
                counts[candidate.owner] += 1
    for candidate in found.candidates(np.flatnonzero(dropped)):
        if candidate.prefix in ids:
            category, reason = "duplicate", f"duplicate of {ids[candidate.prefix]}: {_SAME}"
        else:
            category, reason = "owner's cap", f"the owner's cap: {max_per_owner} prompts of the owner are there already"
        found.left_out.append(_Out(candidate.line, category, reason, names[candidate.owner] if candidate.owner >= 0 else None))
    already_there = len(order) - int(kept.sum()) - int(dropped.sum())
    found.table = found.table[kept]
    return already_there


_SAME = f"the same text, or the same first {PREFIX_LENGTH} characters"


# ---------------------------------------------------------------------------------------------------- writing


@dataclass(slots=True)
class _Written:
    splits: Counter[Split] = field(default_factory=Counter[Split])
    owners: set[str] = field(default_factory=set[str])
    without_owner: int = 0
    flagged: int = 0


def _new_prompts(format: str, rows: RowSource, found: _Found, source: Source, written: _Written) -> Iterator[Prompt]:
    """Read the file a second time, and make the prompts that were chosen."""
    imported = datetime.now(UTC).isoformat(timespec="seconds")
    chosen = found.candidates(range(len(found.table)))
    candidate = next(chosen, None)
    for place, row in enumerate(rows.rows()):
        if candidate is None or place != candidate.place:
            continue
        submission = _read_again(format, row, candidate)
        if submission is None:
            raise _changed(rows)
        metadata: dict[str, Any] = {**submission.metadata, "imported": imported}
        if personal := found.personal.get(place):
            metadata |= {"personal_data": list(personal), "needs_review": True}
            written.flagged += 1
        owner, split = submission.owner, _SPLITS[candidate.split]
        written.splits[split] += 1
        written.without_owner += owner is None
        if owner is not None:
            written.owners.add(owner)
        yield Prompt(
            id=candidate.id,
            turns=submission.turns,
            use_case=submission.use_case,
            source=submission.source or source,
            user=owner,
            split=split,
            language=submission.language or language_of_turns(submission.turns),
            metadata=metadata,
        )
        candidate = next(chosen, None)
    if candidate is not None:
        raise _changed(rows)


def _read_again(format: str, row: Row, candidate: _Candidate) -> Submission | None:
    """The submission of a row if it is still the same."""
    try:
        submission = read_submission(format, row.value)
    except (BadRow, LeftOut):
        return None
    return submission if identity_of(submission.text, submission.owner) == candidate.identity else None


def _changed(rows: RowSource) -> DataError:
    return DataError(f"{rows.name} changed while it was read", where=rows.where, next_step="import it again")


def _keep_aside(data: Path, rows: RowSource, left_out: Iterable[_Out], key: OwnerKey) -> None:
    """Add what is new to ``rejected.jsonl``: no text, and the owner only as a keyed hash, by which forgetting finds the row."""
    file, name = data / REJECTED, str(Path(rows.where).resolve()) if Path(rows.where).exists() else rows.where
    there = (row for _, row in read_jsonl(file)) if file.exists() else ()
    known = {hash_of(str(row.get("file")), str(row.get("line")), str(row.get("reason"))) for row in there}
    outs = [out for out in left_out if hash_of(name, str(out.line), out.reason) not in known]
    new = (
        {"file": name, "line": out.line, "reason": out.reason} | ({} if out.owner is None else {"owner": key.hashed(out.owner)})
        for out in outs
    )
    if outs:
        write_jsonl(file, chain((row for _, row in read_jsonl(file)) if file.exists() else (), new))
