"""Erase an owner's text from every other file of a project: runs, samples, reports, exports, caches.

A row of a JSONL file is removed whole if it names one of the owner's records, or if it holds one of the texts and names no
other owner's prompt. In JSON files, pages and tables, :data:`ERASED` replaces the text. Files that cannot be searched or
changed are listed.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from heedful.project.data_folder import file_name
from heedful.project.files import remove_leftovers, write_atomically
from heedful.project.lock import LOCK_FILE
from heedful.project.outputs import describe_again, forget_description
from heedful.project.runs import STAGE_FILE, write_state

ERASED = "[erased]"
"""What replaces an erased text."""
TELLING = 12
"""In characters. A shorter text of the owner's only counts if it is a whole value: "Hello" is part of too many texts."""
TELLING_ANSWER = 40
"""In characters. A shorter answer is not searched for: "I do not know." does not point to one owner."""
_BEGINNING = 60
_PACKED = (".parquet", ".zip", ".tar", ".tgz", ".xz", ".bz2", ".zst", ".arrow", ".pkl", ".pickle", ".pdf")
"""Files that cannot be searched for a text byte by byte."""
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".distcp")
_DATABASES = (".sqlite", ".sqlite-wal", ".sqlite-shm", ".before-restore")
_CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to search files for."""

    ids: Set[str]
    """Of the owner's prompts and of the records about them."""
    kept_ids: Set[str]
    """Of other owners' prompts: a row that names one of them belongs to that owner, whatever its text."""
    texts: Set[str]
    """What the owner wrote. A short text must equal a whole value."""
    parts: tuple[str, ...]
    """Longer texts, which may be part of a value."""
    joined: tuple[str, ...]
    """``parts`` with single spaces: a tokenizer may have changed the white space."""

    def is_text(self, value: str) -> bool:
        """Whether a value is one of the texts, or holds one of the longer ones, whatever its white space."""
        if value.strip() in self.texts:
            return True
        joined = " ".join(value.split())
        return any(part in joined for part in self.joined)


def wanted_of(ids: Set[str], kept_ids: Set[str], written: Iterable[str], answers: Iterable[str]) -> Wanted:
    """What to search for. written: what the owner wrote. answers: what others wrote about it; only long ones count."""
    texts = {text.strip() for text in written} - {""}
    parts = {part for text in texts if len(text) >= TELLING for part in _parts(text)}
    parts |= {answer.strip() for answer in answers if len(answer.strip()) >= TELLING_ANSWER}
    ordered = tuple(sorted(parts, key=len, reverse=True))
    joined = tuple(dict.fromkeys(" ".join(part.split()) for part in ordered))
    return Wanted(ids=ids, kept_ids=kept_ids, texts=texts, parts=ordered, joined=joined)


def _parts(text: str) -> Iterator[str]:
    """A text, its beginning (a page may have cut it) and its longer lines."""
    yield text
    if len(text) > _BEGINNING:
        yield text[:_BEGINNING].rstrip()
    for line in text.splitlines():
        if len(line.strip()) >= TELLING_ANSWER:
            yield line.strip()


@dataclass(slots=True)
class ErasedFiles:
    """What was done to a project's files."""

    cleaned: dict[Path, int] = field(default_factory=dict[Path, int])
    """File -> rows or places that were erased."""
    left: list[Path] = field(default_factory=list[Path])
    """Files that hold the text and were not changed, or that cannot be searched."""


def erase_in_files(folder: Path, wanted: Wanted, *, untouched: Iterable[Path]) -> ErasedFiles:
    """Erase the text from all files of a folder but the ``untouched`` ones (files, or folders with all that is in them).

    Files of prompts come last, because the owner's ids and texts are read from them. So it may be killed and run again. Raises
    StorageError.
    """
    result = ErasedFiles()
    skipped = set(untouched)
    for path in sorted(_files(folder, skipped), key=lambda path: (path.name == file_name("prompt"), path)):
        if path.name.startswith(".") and path.suffix == ".tmp":
            remove_leftovers(path.parent)
            continue
        cleaned = _cleaned(path, wanted)
        if cleaned is None:
            result.left.append(path)
        elif cleaned[1]:
            _replace(path, cleaned[0])
            result.cleaned[path] = cleaned[1]
    return result


def _files(folder: Path, skipped: Set[Path]) -> Iterator[Path]:
    for path in folder.iterdir():
        if path in skipped or path.is_symlink() or path.name == LOCK_FILE:
            continue
        if path.is_dir():
            yield from _files(path, skipped)
        elif path.is_file():
            yield path


def _replace(path: Path, content: bytes) -> None:
    """Replace a file's content. If it is an output of a finished stage, the stage's description of it changes too."""
    stage = next((parent for parent in path.parents if (parent / STAGE_FILE).is_file()), None)
    described = stage is not None and path.name != STAGE_FILE and forget_description(stage, path)
    if path.name == STAGE_FILE:
        write_state(path.parent, json.loads(content))
        return
    write_atomically(path, content)
    if described:
        assert stage is not None
        describe_again(stage, path)


def _cleaned(path: Path, wanted: Wanted) -> tuple[bytes, int] | None:
    """The file's content without the text, and how often the text was there; None if the file has to stay as it is."""
    if path.suffix in _WEIGHTS or _is_database(path):
        return b"", 0
    if path.suffix in _PACKED or _CHECKPOINTS in path.parts:
        return None
    content = path.read_bytes()
    if path.suffix != ".gz":
        return _cleaned_content(path.suffix, content, wanted)
    try:
        inner = _cleaned_content(Path(path.stem).suffix, gzip.decompress(content), wanted)
    except (OSError, EOFError):
        return None
    return inner and (gzip.compress(inner[0], mtime=0), inner[1])


def _is_database(path: Path) -> bool:
    """Whether it is a SQLite file: those are erased elsewhere, row by row."""
    return path.name.endswith(_DATABASES)


def _cleaned_content(suffix: str, content: bytes, wanted: Wanted) -> tuple[bytes, int] | None:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return None if _holds_bytes(content, wanted) else (b"", 0)
    if suffix == ".jsonl":
        cleaned = _without_rows(text, wanted)
    elif suffix == ".json":
        cleaned = _without_values(text, wanted)
    else:
        cleaned = _without_text(text, wanted)
    return cleaned[0].encode("utf-8"), cleaned[1]


def _holds_bytes(content: bytes, wanted: Wanted) -> bool:
    return any(needle.encode("utf-8") in content or needle.encode("utf-16-le") in content for needle in wanted.parts)


# ---------------------------------------------------------------------------------------------------- JSON


def _without_rows(text: str, wanted: Wanted) -> tuple[str, int]:
    kept: list[str] = []
    places = 0
    for line in text.split("\n"):
        row = parsed(line)
        if row is None:  # an empty line, or one that a kill cut short
            line, found = _without_text(line, wanted)
            places += found
        elif _is_owners(row, wanted):
            places += 1
            continue
        kept.append(line)
    return "\n".join(kept), places


def parsed(text: str) -> Any:
    """The JSON value, or None if the text is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _is_owners(row: Any, wanted: Wanted) -> bool:
    """Whether a row is about one of the owner's records, or holds a text without naming another's prompt."""
    if not isinstance(row, Mapping):
        return _holds(row, wanted)
    named = {str(row[key]) for key in ("id", "prompt_id", "response_id") if isinstance(row.get(key), str)}
    if named & wanted.ids:
        return True
    return not named & wanted.kept_ids and _holds(row, wanted)


def _holds(value: Any, wanted: Wanted) -> bool:
    if isinstance(value, Mapping):
        return any(_holds(part, wanted) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return any(_holds(part, wanted) for part in value)
    return isinstance(value, str) and (value in wanted.ids or wanted.is_text(value))


def _without_values(text: str, wanted: Wanted) -> tuple[str, int]:
    """A JSON file: list elements about the owner's prompts and keys that are ids are removed; other texts are replaced."""
    value = parsed(text)
    if value is None:
        return _without_text(text, wanted)
    places = [0]
    cleaned = _rid(value, wanted, places)
    indent = 2 if text.startswith(("{\n ", "[\n ")) else None
    end = "\n" if text.endswith("\n") else ""
    return (json.dumps(cleaned, indent=indent, ensure_ascii=False) + end if places[0] else text), places[0]


def _rid(value: Any, wanted: Wanted, places: list[int]) -> Any:
    if isinstance(value, Mapping):
        kept = {key: _rid(part, wanted, places) for key, part in value.items() if key not in wanted.ids}
        places[0] += len(value) - len(kept)
        return kept
    if isinstance(value, list):
        kept_parts = [part for part in value if not _is_about(part, wanted)]
        places[0] += len(value) - len(kept_parts)
        return [_rid(part, wanted, places) for part in kept_parts]
    if isinstance(value, str) and wanted.is_text(value):
        places[0] += 1
        return ERASED
    return value


def _is_about(part: Any, wanted: Wanted) -> bool:
    """Whether a part of a list is an id of the owner's, or an object about one of the owner's prompts (a transcript, say)."""
    if isinstance(part, str):
        return part in wanted.ids
    if not isinstance(part, Mapping):
        return False
    if any(isinstance(part.get(key), str) and part[key] in wanted.ids for key in ("id", "prompt_id", "response_id")):
        return True
    return isinstance(part.get("prompt"), str) and wanted.is_text(part["prompt"])


# ---------------------------------------------------------------------------------------------------- other text


def _without_text(text: str, wanted: Wanted) -> tuple[str, int]:
    """Pages, tables and plain text: the longer texts are replaced, as each kind of file may spell them."""
    places = 0
    for needle in sorted(spelled(wanted.parts), key=len, reverse=True):
        if found := text.count(needle):
            text, places = text.replace(needle, ERASED), places + found
    return text, places


def spelled(texts: Iterable[str]) -> set[str]:
    """Texts as files may hold them: plain, in JSON, in HTML, in CSV."""
    ways: tuple[Callable[[str], str], ...] = (
        str,
        lambda text: json.dumps(text)[1:-1],
        lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
        escape,
        lambda text: escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;"),
        lambda text: text.replace('"', '""'),
        lambda text: repr(text)[1:-1],
    )
    return {way(text) for text in texts for way in ways}
