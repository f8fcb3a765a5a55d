"""``heedful prompts import``: what users submitted becomes prompts of a project, cleaned as the paper did (SPEC 1.2).

A row is added, was there already, or is left out for one reason, which is counted and kept in ``data/rejected.jsonl`` with
file and line (and without the text, which may be what must not be kept). In this order: unreadable or empty, no consent, a
forgotten owner, too long, personal data where the owner's split is train, duplicate, the owner's cap.

Which of several duplicates is kept, and which prompts of an owner stay below the cap, is decided by a hash of owner and text
(what is stored already comes first), so neither the order of the rows nor a second import changes it. The file is read twice:
first only hashes of each prompt are kept, then what was chosen is written; the texts are never in memory together.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import numpy as np

from heedful.conversation import Turn, opening, plain_text
from heedful.errors import ConfigError, DataError
from heedful.project.data_folder import file_name, record_to_json, turns_in
from heedful.project.files import locked, read_jsonl, write_jsonl
from heedful.project.formats.rows import BadRow, content_id
from heedful.project.importing import REJECTED
from heedful.project.owners import Forgotten, OwnerKey, owner_key
from heedful.project.structure import nearest
from heedful.prompts.duplicates import PREFIX_LENGTH, prefix_key, spoken_text
from heedful.prompts.language import language_of_turns
from heedful.prompts.personal import Finder, check_region, personal_data_in
from heedful.prompts.reading import INTAKES, LeftOut, Submission, owner_of, read_submission, submission_rows
from heedful.records import Prompt, Source, Split

MAX_LENGTH = 1_024
"""Tokens (SPEC 1.2: 1k), or words where no tokenizer is given."""
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
"""Why a row is left out, in the order in which it is asked."""

_SHOWN_REASONS = 5
_SPLITS: tuple[Split, ...] = get_args(Split)


def count_words(text: str) -> int:
    """Words, where no tokenizer is given: what white space separates."""
    return len(text.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaning:
    """What is left out, and how it is found out."""

    max_length: int = MAX_LENGTH
    """Longest prompt, in the unit of ``length``."""
    length: Callable[[str], int] = count_words
    """Length of a text."""
    unit: str = "words"
    """What ``length`` counts."""
    max_per_owner: int = MAX_PER_OWNER
    """Most prompts of one owner."""
    region: str = "US"
    """Country whose phone numbers may lack the country code."""
    names: Finder | None = None
    """Finds names, which the patterns do not."""

    def __post_init__(self) -> None:
        for name in ("max_length", "max_per_owner"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is out of range", expected="at least 1", got=str(getattr(self, name)))
        check_region(self.region)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeReport:
    """What became of each row: ``read == added + already_there + sum(left_out.values())``."""

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
    """New prompts that nobody owns: split by their text, under no cap."""
    flagged: int
    """New prompts of valid and test with personal data: kept, for review."""
    reasons: tuple[str, ...]
    """``line N: reason`` of the first rows that were left out."""
    rejected_file: str


def import_prompts(
    format: str, path: str | Path, data: str | Path, *, source: Source = "imported", cleaning: Cleaning | None = None
) -> IntakeReport:
    """Add the prompts of a file to a data folder; a second time adds nothing.

    source: of rows that do not name one (requests of the API are customers'). Raises ConfigError for an unknown format,
    MissingError for no file, DataError where no row is readable or the data folder is broken, StorageError for a full disk:
    then no prompt was added.
    """
    if format not in INTAKES:
        meant = nearest(format, INTAKES)
        raise ConfigError(
            f"there is no prompt format {format!r}",
            expected=", ".join(INTAKES),
            got=repr(format),
            next_step=f"did you mean {meant!r}?" if meant else None,
        )
    path, data, cleaning = Path(path), Path(data), cleaning or Cleaning()
    with locked(data):
        shelf = _Shelf.read(data)
        found = _read_once(format, path, shelf, cleaning)
        _refuse_unreadable(format, path, found)
        chosen = _choose(found, shelf, cleaning.max_per_owner)
        _keep_aside(data, path, _reasons(found, chosen, cleaning), shelf.key)
        written = _Written()
        if chosen.added:
            prompts = data / file_name("prompt")
            there = (row for _, row in read_jsonl(prompts)) if prompts.exists() else ()
            new = _new_prompts(format, path, found, chosen, source, written)
            write_jsonl(prompts, chain(there, map(record_to_json, new)))
    left_out = Counter(category for category, _, _ in found.left_out.values()) + chosen.categories
    reasons = sorted(_reasons(found, chosen, cleaning, most=_SHOWN_REASONS), key=lambda each: each[:2])
    return IntakeReport(
        format=format,
        file=str(path),
        read=found.read,
        added=len(chosen.added),
        already_there=chosen.already_there,
        left_out={category: left_out[category] for category in CATEGORIES if left_out[category]},
        splits={split: written.splits[split] for split in _SPLITS if written.splits[split]},
        owners=len(written.owners),
        without_owner=written.without_owner,
        flagged=written.flagged,
        reasons=tuple(f"line {line}: {reason}" for line, reason, _ in reasons[:_SHOWN_REASONS]),
        rejected_file=str(data / REJECTED),
    )


# ---------------------------------------------------------------------------------------------------- what is there


@dataclass(slots=True)
class _Shelf:
    """What the choice must know of the prompts that are there: hashes, counts, splits; not the texts."""

    key: OwnerKey
    forgotten: Forgotten
    identities: set[int] = field(default_factory=set[int])
    prefixes: dict[int, str | int] = field(default_factory=dict[int, str | int])
    """Id by prefix key."""
    counts: Counter[str] = field(default_factory=Counter[str])
    """Prompts by owner."""
    splits: dict[int, Split] = field(default_factory=dict[int, Split])
    """Split by hash of the owner, or of the conversation's opening where there is none: given once, it stays."""

    @classmethod
    def read(cls, data: Path) -> _Shelf:
        shelf = cls(key=owner_key(data), forgotten=Forgotten(data))
        path = data / file_name("prompt")
        for line, row in read_jsonl(path) if path.exists() else ():
            turns, owner = _stored_turns(row, f"{path}:{line}"), row.get("user")
            shelf.identities.add(_identity(plain_text(turns), owner))
            shelf.prefixes.setdefault(prefix_key(spoken_text(turns)), row["id"])
            shelf.splits.setdefault(_hash(_group(turns, owner)), row.get("split", "train"))
            if owner is not None:
                shelf.counts[owner] += 1
        return shelf

    def split(self, turns: Sequence[Turn], owner: str | None) -> Split:
        group = _group(turns, owner)
        return self.splits.get(_hash(group)) or self.key.split(group)


def _stored_turns(row: Any, where: str) -> tuple[Turn, ...]:
    try:
        _, turns = row["id"], turns_in(row)
    except (KeyError, TypeError):
        raise DataError("a stored prompt cannot be read", expected="id and text or turns", got="neither", where=where) from None
    return turns


def _group(turns: Sequence[Turn], owner: str | None) -> str:
    return f"user {owner}" if owner is not None else f"text {opening(turns)}"


def _hash(*parts: str) -> int:
    return int.from_bytes(blake2b("\0".join(parts).encode(errors="surrogatepass"), digest_size=8).digest(), "big")


def _identity(text: str, owner: str | None) -> int:
    """The hash by which a prompt is known again, and by which prompts are put in order."""
    return _hash("no owner" if owner is None else f"owner {owner}", text)


# ---------------------------------------------------------------------------------------------------- first reading


@dataclass(slots=True)
class _Found:
    """The file as the first reading leaves it: what each row is, as hashes."""

    read: int = 0
    left_out: dict[int, tuple[str, str, str | None]] = field(default_factory=dict[int, tuple[str, str, str | None]])
    """Category, reason and owner by place (rows from 0)."""
    lines: array[int] = field(default_factory=lambda: array("q"))
    """Line of every row, by place."""
    personal: dict[int, tuple[str, ...]] = field(default_factory=dict[int, tuple[str, ...]])
    """Kinds of personal data by place, of candidates."""
    owner_names: list[str] = field(default_factory=list[str])
    places: array[int] = field(default_factory=lambda: array("q"))
    """Of each candidate: its place among the rows; the following go with it."""
    identities: array[int] = field(default_factory=lambda: array("Q"))
    prefixes: array[int] = field(default_factory=lambda: array("Q"))
    contents: array[int] = field(default_factory=lambda: array("Q"))
    owners: array[int] = field(default_factory=lambda: array("q"))
    splits: bytearray = field(default_factory=bytearray)


def _read_once(format: str, path: Path, shelf: _Shelf, cleaning: Cleaning) -> _Found:
    found = _Found()
    numbers: dict[str, int] = {}
    for place, row in enumerate(submission_rows(path)):
        found.read += 1
        found.lines.append(row.line)
        try:
            if row.problem is not None:
                raise BadRow(row.problem)
            submission = read_submission(format, row.value)
            text, owner = submission.text, submission.owner
            split, personal = _checked(submission, shelf, cleaning)
        except BadRow as bad:
            found.left_out[place] = ("unreadable", str(bad), owner_of(row.value))
            continue
        except LeftOut as out:
            found.left_out[place] = (out.category, str(out), owner_of(row.value))
            continue
        if personal:
            found.personal[place] = personal
        found.places.append(place)
        found.identities.append(_identity(text, owner))
        found.prefixes.append(prefix_key(spoken_text(submission.turns)))
        found.contents.append(int(content_id("prompt", text).rpartition("-")[2], 16))
        found.owners.append(-1 if owner is None else numbers.setdefault(owner, len(numbers)))
        found.splits.append(_SPLITS.index(split))
    found.owner_names = list(numbers)
    return found


def _checked(submission: Submission, shelf: _Shelf, cleaning: Cleaning) -> tuple[Split, tuple[str, ...]]:
    """The split, and the kinds of personal data. Raises LeftOut for what this prompt alone decides."""
    text, owner = submission.text, submission.owner
    if shelf.forgotten.owner(owner) or (owner is None and shelf.forgotten.prompt(content_id("prompt", text))):
        raise LeftOut("forgotten owner", "the owner asked to be forgotten")
    length = cleaning.length(text)
    if length > cleaning.max_length:
        raise LeftOut("too long", f"too long: {length} {cleaning.unit}, at most {cleaning.max_length} are allowed")
    split = shelf.split(submission.turns, owner)
    personal = personal_data_in(submission.turns, region=cleaning.region, more=cleaning.names)
    if personal and split == "train":
        raise LeftOut("personal data in train", f"personal data ({', '.join(personal)}) in a prompt of the split train")
    return split, personal


def _refuse_unreadable(format: str, path: Path, found: _Found) -> None:
    sample = INTAKES[format].sample
    if not found.read:
        raise DataError(f"{path.name} holds no rows", expected=sample, got="an empty file", where=path)
    unreadable = Counter(reason for category, reason, _ in found.left_out.values() if category == "unreadable")
    if unreadable.total() == found.read:
        reason, count = unreadable.most_common(1)[0]
        raise DataError(
            f"no row of {path.name} is usable as {format}",
            expected=sample,
            got=f"{reason} ({count} of {found.read} rows)",
            where=f"{path}:{found.lines[0]}",
            next_step=f"bring the rows into one of: {', '.join(INTAKES)}",
        )


# ---------------------------------------------------------------------------------------------------- choosing


@dataclass(slots=True)
class _Chosen:
    """Candidates by what became of them."""

    added: dict[int, int] = field(default_factory=dict[int, int])
    """Candidate by place."""
    already_there: int = 0
    dropped: list[int] = field(default_factory=list[int])
    """Candidates that are duplicates or above the cap."""
    kept_ids: dict[int, str | int] = field(default_factory=dict[int, str | int])
    """Stored id, or candidate, by prefix key."""
    categories: Counter[str] = field(default_factory=Counter[str])


def _choose(found: _Found, shelf: _Shelf, max_per_owner: int) -> _Chosen:
    """Go through the candidates by hash, and keep each whose prefix is new and whose owner has room.

    Every candidate that is not kept is, at the end, a duplicate of one that is kept, or its owner has reached the cap: the same
    again when the file is imported a second time. The shelf's sets are used up.
    """
    chosen = _Chosen(kept_ids=shelf.prefixes)
    counts = [shelf.counts[name] for name in found.owner_names]
    for candidate in np.argsort(np.frombuffer(found.identities, dtype=np.uint64), kind="stable").tolist():
        identity, prefix, owner = found.identities[candidate], found.prefixes[candidate], found.owners[candidate]
        if identity in shelf.identities:
            shelf.identities.remove(identity)
            chosen.already_there += 1
        elif prefix in chosen.kept_ids or (owner >= 0 and counts[owner] >= max_per_owner):
            chosen.dropped.append(candidate)
        else:
            chosen.kept_ids[prefix] = candidate
            chosen.added[found.places[candidate]] = candidate
            if owner >= 0:
                counts[owner] += 1
    for candidate in chosen.dropped:
        chosen.categories[_dropped_as(found, chosen, candidate)] += 1
    return chosen


def _dropped_as(found: _Found, chosen: _Chosen, candidate: int) -> str:
    return "duplicate" if found.prefixes[candidate] in chosen.kept_ids else "owner's cap"


def _prompt_id(found: _Found, kept: str | int) -> str:
    return kept if isinstance(kept, str) else f"prompt-{found.contents[kept]:016x}"


def _reasons(
    found: _Found, chosen: _Chosen, cleaning: Cleaning, most: int | None = None
) -> Iterator[tuple[int, str, str | None]]:
    """(line, reason, owner) of every row that was left out; of each sort only the first ``most``."""
    for place in list(found.left_out)[:most]:
        _, reason, owner = found.left_out[place]
        yield found.lines[place], reason, owner
    dropped = sorted(chosen.dropped, key=lambda candidate: found.places[candidate])
    for candidate in dropped[:most]:
        line, number = found.lines[found.places[candidate]], found.owners[candidate]
        owner = found.owner_names[number] if number >= 0 else None
        if _dropped_as(found, chosen, candidate) == "duplicate":
            other = _prompt_id(found, chosen.kept_ids[found.prefixes[candidate]])
            yield line, f"duplicate of {other}: the same text, or the same first {PREFIX_LENGTH} characters", owner
        else:
            yield line, f"the owner's cap: {cleaning.max_per_owner} prompts of the owner are there", owner


# ---------------------------------------------------------------------------------------------------- writing


@dataclass(slots=True)
class _Written:
    splits: Counter[Split] = field(default_factory=Counter[Split])
    owners: set[str] = field(default_factory=set[str])
    without_owner: int = 0
    flagged: int = 0


def _new_prompts(
    format: str, path: Path, found: _Found, chosen: _Chosen, source: Source, written: _Written
) -> Iterator[Prompt]:
    """Read the file a second time, and make the prompts that were chosen."""
    imported = datetime.now(UTC).isoformat(timespec="seconds")
    for place, row in enumerate(submission_rows(path)):
        candidate = chosen.added.get(place)
        if candidate is None:
            continue
        submission = read_submission(format, row.value)
        owner, personal = submission.owner, found.personal.get(place)
        if _identity(submission.text, owner) != found.identities[candidate]:
            raise DataError(f"{path.name} changed while it was read", where=f"{path}:{row.line}", next_step="import it again")
        metadata: dict[str, Any] = {**submission.metadata, "imported": imported}
        if personal:
            metadata |= {"personal_data": list(personal), "needs_review": True}
            written.flagged += 1
        split = _SPLITS[found.splits[candidate]]
        written.splits[split] += 1
        written.without_owner += owner is None
        if owner is not None:
            written.owners.add(owner)
        yield Prompt(
            id=_prompt_id(found, candidate),
            turns=submission.turns,
            use_case=submission.use_case,
            source=submission.source or source,
            user=owner,
            split=split,
            language=submission.language or language_of_turns(submission.turns),
            metadata=metadata,
        )


def _keep_aside(data: Path, path: Path, reasons: Iterator[tuple[int, str, str | None]], key: OwnerKey) -> None:
    """Add to ``rejected.jsonl`` what is not in it yet: no text, and the owner only as a keyed hash (to be forgotten by)."""
    file, name = data / REJECTED, str(path.resolve())
    there = (row for _, row in read_jsonl(file)) if file.exists() else ()
    known = {_hash(str(row.get("file")), str(row.get("line")), str(row.get("reason"))) for row in there}
    rows = [each for each in reasons if _hash(name, str(each[0]), each[1]) not in known]
    new = (
        {"file": name, "line": line, "reason": reason} | ({} if owner is None else {"owner": key.hashed(owner)})
        for line, reason, owner in rows
    )
    if rows:
        write_jsonl(file, chain((row for _, row in read_jsonl(file)) if file.exists() else (), new))
