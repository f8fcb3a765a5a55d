"""From records and text to token ids, with a count of everything that was cut or left out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from heedful.errors import DataError, MissingError
from heedful.model.template import Template, encode, prompt_tokens, response_tokens
from heedful.records import Demonstration, Phase, Prompt, Ranking, Response

Tokens = Sequence[int] | NDArray[np.int32]

DOCUMENT_SEPARATOR = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and what follows it, as token ids; the response ends with end-of-text unless it was cut."""

    prompt: list[int]
    response: list[int]


@dataclass(frozen=True, slots=True)
class RankedPrompt:
    """A prompt, its responses, and the ranks that each labeler gave them: all comparisons of a prompt are one batch element.

    ``ranks[j][i]`` is labeler j's place for response i: 1 is best, equal is a tie, 0 where the labeler did not rank it.
    """

    prompt_id: str
    response_ids: tuple[str, ...]
    prompt: list[int]
    responses: list[list[int]]
    labelers: tuple[str, ...]
    ranks: tuple[tuple[int, ...], ...]


@dataclass(slots=True)
class Counts:
    """What happened to the records of one kind; printed, and kept with the run."""

    used: int = 0
    prompt_too_long: int = 0
    response_cut: int = 0
    empty_response: int = 0
    no_comparison: int = 0

    def __str__(self) -> str:
        words = {
            "prompt_too_long": "left out: prompt over the limit",
            "response_cut": "cut at the response limit",
            "empty_response": "left out: empty response",
            "no_comparison": "without a comparison (K = 1 or all tied): no effect",
        }
        parts = [f"{self.used:,} used"]
        parts += [f"{getattr(self, name):,} {text}" for name, text in words.items() if getattr(self, name)]
        return "; ".join(parts)


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], *, max_tokens: int, template: Template = "plain"
) -> tuple[list[Prompt], list[list[int]], Counts]:
    """Prompts that fit, with their tokens; longer ones are left out and counted (SPEC 1.2)."""
    counts = Counts()
    kept: list[Prompt] = []
    tokens: list[list[int]] = []
    for prompt, ids in zip(prompts, prompt_tokens(tokenizer, prompts, template), strict=True):
        if len(ids) > max_tokens:
            counts.prompt_too_long += 1
            continue
        kept.append(prompt)
        tokens.append(ids)
    counts.used = len(kept)
    return kept, tokens, counts


def encode_response(ids: list[int], *, end: int, finished: bool, max_tokens: int) -> tuple[list[int], bool]:
    """A response's tokens with end-of-text where it finished and fits; True as the second value where it was cut.

    An unfinished empty response would hold no token at all: it is given end-of-text, so that there is a place to score.
    """
    if len(ids) + finished > max_tokens:
        return ids[:max_tokens], True
    return [*ids, end] if finished or not ids else list(ids), False


def encode_demonstrations(
    tokenizer: PreTrainedTokenizerBase,
    prompts: dict[str, Prompt],
    demonstrations: Sequence[Demonstration],
    *,
    max_prompt_tokens: int,
    max_response_tokens: int,
    template: Template = "plain",
) -> tuple[list[Example], Counts]:
    """Demonstrations as examples. Empty ones teach nothing but silence: they are left out and counted.

    Raises DataError where none is left.
    """
    counts = Counts()
    examples: list[Example] = []
    answered = [prompts[d.prompt_id] for d in demonstrations]
    prompt_ids = prompt_tokens(tokenizer, answered, template)
    response_ids = response_tokens(tokenizer, answered, [d.text for d in demonstrations], template)
    for prompt, response in zip(prompt_ids, response_ids, strict=True):
        if len(prompt) > max_prompt_tokens:
            counts.prompt_too_long += 1
        elif not response:
            counts.empty_response += 1
        else:
            tokens, cut = encode_response(response, end=_end(tokenizer), finished=True, max_tokens=max_response_tokens)
            counts.response_cut += cut
            examples.append(Example(prompt, tokens))
    counts.used = len(examples)
    if not examples:
        raise DataError("no demonstration can be used", expected="at least one", got=str(counts))
    return examples, counts


def encode_rankings(
    tokenizer: PreTrainedTokenizerBase,
    prompts: dict[str, Prompt],
    responses: dict[str, Response],
    rankings: Sequence[Ranking],
    *,
    max_prompt_tokens: int,
    max_response_tokens: int,
    template: Template = "plain",
    phases: Sequence[Phase] = ("training",),
) -> tuple[list[RankedPrompt], Counts]:
    """Rankings as token ids, all of a prompt together: each of its responses is there once, whoever ranked it (SPEC 3.3).

    K = 1 and all-tied rankings hold no comparison: they are counted and left out.
    phases: what the rankings and their responses may be for. Only an evaluation of the reward model may name others than
    training: what people ranked for evaluation or screening must train nothing.
    Raises DataError if a ranking or a response is of another phase, or if no comparison is left.
    """
    for kind, records in (("ranking", rankings), ("response", [responses[i] for r in rankings for i in r.response_ids])):
        _refuse_other_phases(kind, records, phases)
    counts = Counts()
    used = [ranking for ranking in rankings if len(set(ranking.ranks)) > 1]
    counts.no_comparison = len(rankings) - len(used)
    of_prompt: dict[str, list[Ranking]] = {}
    for ranking in used:
        of_prompt.setdefault(ranking.prompt_id, []).append(ranking)
    prompt_ids = prompt_tokens(tokenizer, [prompts[name] for name in of_prompt], template)
    names = list(dict.fromkeys(name for ranking in used for name in ranking.response_ids))
    answered = [prompts[responses[name].prompt_id] for name in names]
    response_ids = response_tokens(tokenizer, answered, [responses[name].text for name in names], template)
    tokens_of = dict(zip(names, response_ids, strict=True))
    ranked: list[RankedPrompt] = []
    for (prompt_id, group), prompt in zip(of_prompt.items(), prompt_ids, strict=True):
        if len(prompt) > max_prompt_tokens:
            counts.prompt_too_long += len(group)
            continue
        seen = tuple(dict.fromkeys(name for ranking in group for name in ranking.response_ids))
        rows: list[list[int]] = []
        for name in seen:
            tokens, cut = encode_response(
                tokens_of[name], end=_end(tokenizer), finished=responses[name].finished, max_tokens=max_response_tokens
            )
            counts.response_cut += cut
            rows.append(tokens)
        given = [dict(zip(ranking.response_ids, ranking.ranks, strict=True)) for ranking in group]
        ranks = tuple([tuple([places.get(name, 0) for name in seen]) for places in given])
        ranked.append(RankedPrompt(prompt_id, seen, prompt, rows, tuple([r.labeler for r in group]), ranks))
        counts.used += len(group)
    if not ranked:
        raise DataError("no ranking can be used", expected="at least one comparison between two responses", got=str(counts))
    return ranked, counts


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
    end = _end(tokenizer)
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


def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of an epoch, from the seed and the epoch's number alone: a resumed run finds its place by counting."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def _refuse_other_phases(kind: str, records: Sequence[Ranking | Response], phases: Sequence[Phase]) -> None:
    for record in records:
        if record.phase not in phases:
            raise DataError(
                f"the {kind} {record.id!r} must not be used here",
                expected=f"the phase {' or '.join(phases)}",
                got=f"the phase {record.phase}",
                next_step="leave it out: what people said for evaluation or screening trains nothing",
            )


def _limit(context_length: int, shortest: int | None, rng: np.random.Generator) -> int:
    return context_length if shortest is None else int(rng.integers(shortest, context_length + 1))


def _end(tokenizer: PreTrainedTokenizerBase) -> int:
    end = tokenizer.eos_token_id
    assert isinstance(end, int)
    return end
