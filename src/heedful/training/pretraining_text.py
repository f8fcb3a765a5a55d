"""Pretraining text: documents read from files, as token ids, in sequences to train on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from heedful.errors import DataError, MissingError
from heedful.model.template import encode

DOCUMENT_SEPARATOR = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class PretrainingText:
    """Documents as one flat array of token ids: document i is ``tokens[offsets[i]:offsets[i + 1]]``, end-of-text included."""

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]

    @property
    def num_documents(self) -> int:
        return len(self.offsets) - 1

    def sequences(
        self, *, context_length: int, rng: np.random.Generator, shortest: int | None = None
    ) -> Iterator[NDArray[np.int32]]:
        """One pass over the documents in random order, joined by end-of-text into sequences.

        A sequence has at most ``context_length`` tokens. Each sequence begins at a document's beginning, or goes on with one
        longer than the context. Where ``shortest`` is set, each sequence's limit is drawn between it and the context length.
        Sequences of one token are left out (nothing to predict).
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
    """Tokenise documents, each ended by end-of-text. Raises DataError where there is none."""
    end = tokenizer.eos_token_id
    assert isinstance(end, int)
    rows: list[NDArray[np.int32]] = []
    batch: list[str] = []

    def flush() -> None:
        rows.extend(np.array([*ids, end], dtype=np.int32) for ids in encode(tokenizer, batch, beginning=True))
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


def read_documents(path: Path) -> Iterator[str]:
    """Plain text from a file or all files of a folder: ``.jsonl`` with a "text" key on each line, or ``.txt``.

    In a .txt file documents are separated by a line ``<|endoftext|>``; without one the whole file is one document.
    Raises MissingError, DataError.
    """
    files = sorted(p for p in path.rglob("*") if p.suffix in (".txt", ".jsonl")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise MissingError(
            "there is no pretraining text",
            expected="a .txt or .jsonl file, or a folder with some",
            got="nothing" if not path.exists() else "no such file in it",
            where=path,
            next_step='put plain text there: documents separated by a line <|endoftext|>, or JSON lines {"text": ...}',
        )
    for file in files:
        if file.suffix == ".jsonl":
            with open(file, "rb") as lines:
                for number, line in enumerate(lines, 1):
                    if not line.strip():
                        continue
                    try:
                        text = json.loads(line)["text"]
                        if not isinstance(text, str):
                            raise TypeError("text is not a string")
                    except (ValueError, KeyError, TypeError) as error:
                        raise DataError(
                            "a line of pretraining text cannot be read",
                            expected='a JSON object with the key "text" and a string',
                            got=line.strip()[:80].decode("utf-8", errors="replace"),
                            where=f"{file}:{number}",
                        ) from error
                    yield text
        else:
            yield from _split_documents(file)


def _split_documents(file: Path) -> Iterator[str]:
    lines: list[str] = []
    with open(file, encoding="utf-8", errors="replace") as text:
        for line in text:
            if line.strip() == DOCUMENT_SEPARATOR:
                yield "".join(lines).strip("\n")
                lines = []
            else:
                lines.append(line)
    yield "".join(lines).strip("\n")


def _limit(context_length: int, shortest: int | None, rng: np.random.Generator) -> int:
    return context_length if shortest is None else int(rng.integers(shortest, context_length + 1))
