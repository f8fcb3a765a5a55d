"""Pretraining text: read documents from files, turn them into token ids, and join these into sequences to train on."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from heedful.errors import DataError, MissingError
from heedful.model.template import encode
from heedful.project.files import Row, bad_character, read_rows, row_of_text
from heedful.project.text_encoding import UTF8, is_utf8

DOCUMENT_SEPARATOR = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class PretrainingText:
    """Documents as one flat array of token ids. Document i is ``tokens[offsets[i]:offsets[i + 1]]``, including end-of-text."""

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        return len(self.offsets) - 1

    def sequences(
        self, *, context_length: int, rng: np.random.Generator, shortest: int | None = None
    ) -> Iterator[NDArray[np.int32]]:
        """One pass over the documents in random order, joined by end-of-text into sequences.

        A sequence has at most ``context_length`` tokens. It starts at the start of a document, or continues a document that is
        longer than the context. If ``shortest`` is set, each sequence's limit is drawn at random from it to ``context_length``;
        a document that is longer than the limit is still kept whole, up to the context. Sequences of one token are left out,
        because they contain nothing to predict.
        """
        parts: list[NDArray[np.int32]] = []
        size, limit = 0, _limit(context_length, shortest, rng)
        for document in rng.permutation(self.num_documents):
            tokens = self.tokens[self.offsets[document] : self.offsets[document + 1]]
            while len(tokens):
                if size and size + len(tokens) > limit:
                    if size > 1:
                        yield np.concatenate(parts)
                    parts, size, limit = [], 0, _limit(context_length, shortest, rng)
                taken = tokens[:context_length]
                parts.append(taken)
                size += len(taken)
                tokens = tokens[len(taken) :]
        if size > 1:
            yield np.concatenate(parts)


def encode_documents(tokenizer: PreTrainedTokenizerBase, documents: Iterable[str]) -> PretrainingText:
    """Tokenise documents and end each with end-of-text. Empty ones are left out. Raises DataError if none is left."""
    end = tokenizer.eos_token_id
    assert isinstance(end, int)
    rows: list[NDArray[np.int32]] = []
    batch: list[str] = []

    def flush() -> None:
        rows.extend(np.array([*ids, end], dtype=np.int32) for ids in encode(tokenizer, batch))
        batch.clear()

    for document in documents:
        if document.strip():
            batch.append(document)
        if len(batch) == 2_000:
            flush()
    flush()
    if not rows:
        raise DataError("there is no pretraining text", expected="at least one document", got="none")
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    return PretrainingText(np.concatenate(rows), np.concatenate([[0], np.cumsum(lengths)]))


def pretraining_files(path: Path) -> list[Path]:
    """A file, or the files in a folder sorted by name: ``.txt`` or ``.jsonl`` in any case, optionally with ``.gz``.

    Hidden files are ignored. Raises MissingError if there is none, DataError if the folder holds other files, which would
    otherwise be silently missing from training.
    """
    if not path.is_dir():
        files, others = [path] if path.is_file() else [], []
    else:
        there = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        files = [file for file in there if _kind(file) is not None]
        others = [file for file in there if _kind(file) is None]
    if others:
        raise DataError(
            "the folder of pretraining text holds files that are not read",
            expected=".txt or .jsonl files, also with .gz",
            got=", ".join(str(file.relative_to(path)) for file in others[:5]) + (", ..." if len(others) > 5 else ""),
            where=path,
            next_step="rename plain text to .txt, and move everything else to another folder",
        )
    if not files:
        raise MissingError(
            "there is no pretraining text",
            expected="a .txt or .jsonl file, or a folder with some",
            got="nothing" if not path.exists() else "no such file in it",
            where=path,
            next_step='put plain text there: documents separated by a line <|endoftext|>, or JSON lines {"text": ...}',
        )
    return files


def _kind(file: Path) -> str | None:
    match file.name.lower().removesuffix(".gz").rpartition(".")[2]:
        case "txt" | "jsonl" as kind:
            return kind
        case _:
            return None


def read_documents(path: Path, *, encoding: str = UTF8) -> Iterator[str]:
    """Documents from a file or all files of a folder: ``.jsonl`` with a "text" key on each line, or ``.txt``.

    In a .txt file, a line ``<|endoftext|>`` separates documents; without one, the whole file is one document. A byte order mark
    is removed. Raises MissingError, and DataError, with file and line, if something is not text in this encoding.
    """
    for file in pretraining_files(path):
        yield from _documents_of_rows(file, encoding) if _kind(file) == "jsonl" else _split_documents(file, encoding)


def _documents_of_rows(file: Path, encoding: str) -> Iterator[str]:
    for row in read_rows(file) if is_utf8(encoding) else _rows_in(file, encoding):
        text = row.value.get("text") if isinstance(row.value, dict) else None
        problem = row.problem or (bad_character(text) if isinstance(text, str) else f"{str(row.value)[:80]}: no text")
        if problem is not None:
            raise DataError(
                "a line of pretraining text cannot be read",
                expected='a JSON object with the key "text" and a string',
                got=problem,
                where=f"{file}:{row.line}",
                next_step="correct or remove the line" if "not UTF-8" not in problem else _how_to_convert(file),
            )
        assert isinstance(text, str)
        yield text


def _rows_in(file: Path, encoding: str) -> Iterator[Row]:
    for number, line in enumerate(_whole_text(file, encoding).split("\n"), start=1):
        if line.strip():
            yield row_of_text(number, line.strip())


def _split_documents(file: Path, encoding: str) -> Iterator[str]:
    lines: list[str] = []
    for line in _text_lines(file) if is_utf8(encoding) else io.StringIO(_whole_text(file, encoding)):
        if line.strip() == DOCUMENT_SEPARATOR:
            yield "".join(lines).strip("\n")
            lines = []
        else:
            lines.append(line)
    yield "".join(lines).strip("\n")


def _text_lines(file: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, with newlines as ends. Only one line is in memory at a time."""
    offset, number = 0, 0
    with _opened(file) as content:
        for line in content:
            number += 1
            try:
                text = line.decode("utf-8-sig" if offset == 0 else "utf-8")
            except UnicodeDecodeError as error:
                raise _not_utf8(file, number, offset + error.start, f"the byte 0x{line[error.start]:02x}") from None
            if "\0" in text:
                raise _not_utf8(file, number, offset + line.index(b"\0"), "a NUL byte, as in UTF-16")
            offset += len(line)
            yield from io.StringIO(_with_newlines(text))


def _whole_text(file: Path, encoding: str) -> str:
    """The text of a file in another encoding than UTF-8. Raises DataError if the text turns out not to be in that encoding.

    Most encodings with one byte per character can decode any bytes. UTF-8 in their place is detected; a mix-up of two of them
    is not.
    """
    with _opened(file) as content:
        data = content.read()
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _not_in(file, encoding, line, f"{error.reason} at offset {error.start:,}") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise _not_in(file, encoding, line, "a NUL character, which UTF-16 text contains if it is read in another encoding")
    if (line := _line_in_utf8(data)) is not None:
        raise _not_in(file, encoding, line, "text that reads as UTF-8")
    return _with_newlines(text)


_TELLING = 5
"""So many characters beyond ASCII do not form valid UTF-8 by chance."""


def _line_in_utf8(data: bytes) -> int | None:
    """The first line with characters beyond ASCII, if all data is valid UTF-8 and contains several of them; else None."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    beyond = [place for place, character in enumerate(text) if not character.isascii()] if not text.isascii() else []
    return text.count("\n", 0, beyond[0]) + 1 if len(beyond) >= _TELLING else None


def _with_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


@contextmanager
def _opened(file: Path) -> Iterator[gzip.GzipFile | BinaryIO]:
    """The file's bytes, decompressed if its name ends in ``.gz``. Raises DataError if it cannot be read."""
    try:
        with gzip.open(file) if file.name.lower().endswith(".gz") else file.open("rb") as content:
            yield content
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{file.name} cannot be read", expected="a complete file", got=str(error), where=file) from None


def _not_utf8(file: Path, line: int, offset: int, got: str) -> DataError:
    return DataError(
        "a file of pretraining text is not UTF-8",
        expected="UTF-8",
        got=f"{got} at offset {offset:,}",
        where=f"{file}:{line}",
        next_step=_how_to_convert(file),
    )


def _how_to_convert(file: Path) -> str:
    return (
        "if all files are in another encoding, name it: [project] pretraining_encoding in heedful.toml, or --encoding of "
        f"`heedful pretrain`; else convert this one, for example: iconv -f WINDOWS-1252 -t UTF-8 {file.name} > converted.txt"
    )


def _not_in(file: Path, encoding: str, line: int, got: str) -> DataError:
    return DataError(
        f"a file of pretraining text is not in the encoding {encoding}",
        expected=f"{encoding} (pretraining_encoding in heedful.toml, or --encoding) in all files",
        got=got,
        where=f"{file}:{line}",
        next_step="name another encoding, or convert the files to UTF-8 and name none",
    )


def _limit(context_length: int, shortest: int | None, rng: np.random.Generator) -> int:
    return context_length if shortest is None else int(rng.integers(shortest, context_length + 1))
