"""Erase a person's text from every other file of a project: runs, samples, reports, exports, caches.

A row of a JSONL file is removed whole if it names one of the records to erase, or if it holds one of the texts and names no
prompt that stays. In JSON files, pages and tables, :data:`ERASED` replaces the text. Files that cannot be searched or changed
are listed.
"""

from __future__ import annotations

import gzip
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from heedful.labeling.database.locating import is_sqlite, is_sqlite_log
from heedful.project.data_folder import RECORD_TYPES, file_name
from heedful.project.files import remove_leftovers, write_atomically
from heedful.project.lock import LOCK_FILE
from heedful.project.outputs import describe_again, forget_description
from heedful.project.owners import composed
from heedful.project.runs import STAGE_FILE, write_state

ERASED = "[erased]"
"""What replaces an erased text."""
TELLING = 12
"""In characters. A shorter text only counts if it is a whole value under one of :data:`TEXT_KEYS`: "Hello" is part of too many
texts, and "train" is also a word in settings."""
TELLING_ANSWER = 40
"""In characters. A shorter answer is not searched for: "I do not know." does not point to one owner."""
TEXT_KEYS = frozenset({
    "text", "prompt", "prompts", "response", "responses", "completion", "content", "message", "chosen", "rejected",
    "instruction", "input", "output", "question", "answer", "query", "context", "target",
})  # fmt: skip
"""Keys under which rows and JSON files hold texts of people and models."""
ID_KEYS: frozenset[str | None] = frozenset({
    "id", "ids", "prompt_id", "prompt_ids", "response_id", "response_ids", "record_ids", "usage", "known",
    "prompts", "responses", "demonstrations", "rankings", "ratings", None,
})  # fmt: skip
"""Keys under which rows and JSON files hold ids of records (None: a list that stands under no key)."""
OWNER_KEYS = ("owner", "user", "user_id", "organization")
"""Keys under which rows name a prompt's owner."""
_ORDER = {file_name(kind): number for number, kind in enumerate(reversed(list(RECORD_TYPES)), start=1)}
"""When files of records are erased: those that are named come after those that name them."""
_BEGINNING = 60
_PACKED = (".parquet", ".zip", ".tar", ".tgz", ".xz", ".bz2", ".zst", ".7z", ".arrow", ".pkl", ".pickle", ".npz", ".pdf")
"""Files that cannot be searched for a text byte by byte."""
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".distcp")
_CHECKPOINTS = "checkpoints"
_GZIP = b"\x1f\x8b"
_ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "cp1252")
"""In which a file that is not UTF-8 may hold a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to search files for."""

    ids: Set[str]
    """Of prompts, of the records about them, and of turns and requests."""
    kept_ids: Set[str]
    """Of the prompts that stay: a row that names one of them belongs to it, whatever its text."""
    short: Set[str]
    """Texts of fewer than :data:`TELLING` characters, one-spaced."""
    parts: tuple[str, ...]
    """Longer texts, which may be part of a value; the longest come first."""
    joined: tuple[str, ...]
    """``parts``, one-spaced."""
    spellings: tuple[str, ...]
    """``parts`` as files may hold them; the longest come first."""
    known_ids: Set[str] = frozenset()
    """Of all records, to recognize what is listed by id."""
    owner: str | None = None
    """Rows that name this owner are the owner's. None: a row's owner does not matter."""
    hashes: Set[str] = frozenset()
    """The owner's keyed hashes, as rejected rows of the prompt pipeline hold them."""

    def is_id(self, value: str, key: object) -> bool:
        """Whether a value is one of the ids. A short one must stand under a key for ids: an id may be "7" or "train"."""
        return value in self.ids and (len(value) >= TELLING or key in ID_KEYS)

    def is_text(self, value: str, key: object = None) -> bool:
        """Whether a value holds one of the longer texts, or is one of the short ones and stands under a key for texts.

        White space does not matter, because a tokenizer may have changed it, and neither does Unicode composition.
        """
        joined = one_spaced(value)
        if len(joined) < TELLING:
            return joined in self.short and key in TEXT_KEYS
        return any(part in joined for part in self.joined)


def one_spaced(text: str) -> str:
    """A text in Unicode's composed form, with single spaces for all white space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def wanted_of(
    ids: Set[str],
    kept_ids: Set[str],
    *,
    written: Iterable[str],
    answers: Iterable[str],
    kept_prompts: Iterable[str] = (),
    kept_answers: Iterable[str] = (),
    known_ids: Set[str] = frozenset(),
    owner: str | None = None,
    hashes: Set[str] = frozenset(),
) -> Wanted:
    """What to search for.

    written: what the person wrote. answers: what others wrote about it; only long ones count. kept_prompts, kept_answers: texts
    that remain; a text that one of them has word for word is not searched for.
    """
    short = {joined for text in written if 0 < len(joined := one_spaced(text)) < TELLING}
    parts, answered = parts_of(written, ()), parts_of((), answers)
    for text in kept_prompts:
        if len(joined := one_spaced(text)) < TELLING:
            short.discard(joined)
        else:
            kept = set(_parts(text.strip()))
            parts -= kept
            answered -= kept
    for text in kept_answers:
        answered.discard(text.strip())
    ordered = tuple(sorted(parts | answered, key=len, reverse=True))
    return Wanted(
        ids=ids,
        kept_ids=kept_ids,
        short=short,
        parts=ordered,
        joined=tuple(dict.fromkeys(map(one_spaced, ordered))),
        spellings=tuple(sorted(spelled(ordered), key=len, reverse=True)),
        known_ids=known_ids,
        owner=owner,
        hashes=hashes,
    )


def parts_of(written: Iterable[str], answers: Iterable[str]) -> set[str]:
    """The parts of texts that point to them: of what the person wrote, and of longer answers."""
    parts = {part for text in written if len(one_spaced(text)) >= TELLING for part in _parts(text.strip())}
    return parts | {answer.strip() for answer in answers if len(one_spaced(answer)) >= TELLING_ANSWER}


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

    Files of records come last, and those of prompts at the very end, because ids and texts are read from them. So it may be
    killed and run again. Raises StorageError.
    """
    result = ErasedFiles()
    skipped = set(untouched)
    for path in sorted(_files(folder, skipped), key=lambda path: (_ORDER.get(path.name, 0), path)):
        if path.name.startswith(".") and path.suffix == ".tmp":
            remove_leftovers(path.parent)
            continue
        cleaned = _cleaned(path, wanted)
        if cleaned is None:
            left = _checkpoint_of(path) or path
            result.left += [left] if left not in result.left else []
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
    if _checkpoint_of(path) is not None:
        return None
    if path.suffix in _WEIGHTS or is_sqlite(path) or is_sqlite_log(path):  # databases are erased elsewhere, row by row
        return b"", 0
    if path.suffix in _PACKED:
        return None
    content = path.read_bytes()
    if not content.startswith(_GZIP):
        return _cleaned_content(path.suffix, content, wanted)
    try:
        suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
        inner = _cleaned_content(suffix, gzip.decompress(content), wanted)
    except (OSError, EOFError):
        return None
    return inner and (gzip.compress(inner[0], mtime=0), inner[1])


def _checkpoint_of(path: Path) -> Path | None:
    """The folder of the checkpoint that a file belongs to."""
    return next((folder for folder in path.parents if folder.parent.name == _CHECKPOINTS), None)


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
    return any(needle.encode(encoding, "replace") in content for needle in wanted.parts for encoding in _ENCODINGS)


# ---------------------------------------------------------------------------------------------------- JSON


def _without_rows(text: str, wanted: Wanted) -> tuple[str, int]:
    kept: list[str] = []
    places = 0
    for line in text.split("\n"):
        row = parsed(line)
        if row is None:  # an empty line, or one that a kill cut short
            line, found = _without_text(line, wanted) if line else (line, 0)
            places += found
        elif is_wanted(row, wanted):
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


def is_wanted(row: Any, wanted: Wanted) -> bool:
    """Whether a row is about one of the records, or holds a text without naming a prompt that stays."""
    if isinstance(row, str):
        return wanted.is_text(row)
    if _names(row, wanted):
        return True
    if isinstance(row, Mapping) and any(_names_kept(row.get(key), wanted) for key in ("id", "prompt_id")):
        return False
    return _holds(row, wanted)


def _names(value: Any, wanted: Wanted, key: object = None) -> bool:
    """Whether a value holds one of the ids, or names the owner as its owner."""
    if isinstance(value, Mapping):
        return _is_by_owner(value, wanted) or any(
            wanted.is_id(name, "") or _names(part, wanted, name) for name, part in value.items()
        )
    if isinstance(value, list):
        return any(_names(part, wanted, key) for part in value)
    return isinstance(value, str) and wanted.is_id(value, key)


def _is_by_owner(row: Mapping[Any, Any], wanted: Wanted) -> bool:
    return wanted.owner is not None and any(_is_owner(key, row.get(key), wanted) for key in OWNER_KEYS)


def _is_owner(key: object, value: object, wanted: Wanted) -> bool:
    """Whether a value names the owner: in the open, or as a keyed hash."""
    if not isinstance(value, str) or key not in OWNER_KEYS or wanted.owner is None:
        return False
    return composed(value) == wanted.owner or value in wanted.hashes


def _names_kept(id: object, wanted: Wanted) -> bool:
    return isinstance(id, str) and id in wanted.kept_ids


def _holds(value: Any, wanted: Wanted, key: object = None) -> bool:
    if isinstance(value, Mapping):
        return any(_holds(name, wanted) or _holds(part, wanted, name) for name, part in value.items())
    if isinstance(value, list):
        return any(_holds(part, wanted, key) for part in value)
    return isinstance(value, str) and wanted.is_text(value, key)


def _without_values(text: str, wanted: Wanted) -> tuple[str, int]:
    """A JSON file: list elements about the records and keys that are ids are removed; other texts are replaced."""
    value = parsed(text)
    if value is None:
        return _without_text(text, wanted)
    places = [0]
    cleaned = _rid(value, wanted, places)
    indent = 2 if text.startswith(("{\n ", "[\n ")) else None
    end = "\n" if text.endswith("\n") else ""
    return (json.dumps(cleaned, indent=indent, ensure_ascii=False) + end if places[0] else text), places[0]


def _rid(value: Any, wanted: Wanted, places: list[int], key: object = None) -> Any:
    if isinstance(value, Mapping):
        by_id = all(name in wanted.known_ids for name in value)
        kept = {
            name: part
            for name, part in value.items()
            if not (wanted.is_id(name, "id" if by_id else "") or wanted.is_text(name))
        }
        places[0] += len(value) - len(kept)
        return {name: _rid(part, wanted, places, name) for name, part in kept.items()}
    if isinstance(value, list):
        kept_parts = [part for part in value if not _is_about(part, wanted, key)]
        places[0] += len(value) - len(kept_parts)
        return [_rid(part, wanted, places, key) for part in kept_parts]
    if isinstance(value, str) and (wanted.is_text(value, key) or _is_owner(key, value, wanted)):
        places[0] += 1
        return ERASED
    return value


def _is_about(part: Any, wanted: Wanted, key: object) -> bool:
    """Whether a part of a list is one of the ids, or an object about one of the prompts (a transcript, say)."""
    if isinstance(part, str):
        return wanted.is_id(part, key)
    if not isinstance(part, Mapping):
        return False
    named = [part.get(key) for key in ("id", "prompt_id", "response_id")]
    if any(isinstance(id, str) and id in wanted.ids for id in named) or _is_by_owner(part, wanted):
        return True
    if any(_names_kept(id, wanted) for id in named):
        return False
    return isinstance(part.get("prompt"), str) and wanted.is_text(part["prompt"], "prompt")


# ---------------------------------------------------------------------------------------------------- other text


def _without_text(text: str, wanted: Wanted) -> tuple[str, int]:
    """Pages, tables and plain text: the longer texts are replaced, as each kind of file may spell them."""
    places = 0
    for needle in wanted.spellings:
        if found := text.count(needle):
            text, places = text.replace(needle, ERASED), places + found
    return text, places


def spelled(texts: Iterable[str]) -> set[str]:
    """Texts as files may hold them: plain, in JSON, in HTML, in JSON within HTML, in CSV; composed or decomposed."""
    ways: tuple[Callable[[str], str], ...] = (
        str,
        lambda text: json.dumps(text)[1:-1],
        lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
        escape,
        lambda text: escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;"),
        lambda text: text.replace('"', '""'),
        lambda text: repr(text)[1:-1],
        lambda text: _in_script(json.dumps(text)[1:-1]),
        lambda text: _in_script(json.dumps(text, ensure_ascii=False)[1:-1]),
    )
    forms = {form for text in texts for form in (text, *(unicodedata.normalize(name, text) for name in ("NFC", "NFD")))}
    return {way(form) for form in forms for way in ways}


def _in_script(text: str) -> str:
    """JSON as templates put it into a page's script."""
    for sign in "<>&'":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
