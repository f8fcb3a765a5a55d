"""A project's records as files that other tools load: Hugging Face ``datasets``, TRL, or Heedful itself elsewhere.

- ``trl-sft``: ``{"prompt", "completion"}``, one row per demonstration.
- ``trl-preference``: ``{"prompt", "chosen", "rejected"}``, one row per comparison of a ranking; a tie is not a comparison.
- ``messages``: ``{"messages": [{"role", "content"}, …]}``, one row per demonstration.
- ``heedful``: every record with its ``kind``, dependencies first; importing it elsewhere gives the same records.

In TRL's formats a conversation is a list of messages, to which TRL applies the chat template. A lone prompt is text under the
template ``plain``, and a list of one message under a chat template. The first three formats are for training: labels for
evaluation or screening and those of held-out labelers are left out and counted. A model that trains on the splits valid and
test cannot be evaluated on them. So an export can hold a single split, or write one file per split; a file for training that
mixes splits gets a warning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from heedful.conversation import is_lone, messages_of, said, trimmed
from heedful.errors import ConfigError, DataError
from heedful.project.data_folder import Records, kind_of, record_to_json
from heedful.project.files import write_jsonl_files
from heedful.project.selection import may_train
from heedful.project.structure import nearest
from heedful.records import Demonstration, Prompt, Ranking, Split

Rows = Iterator[dict[str, Any]]
Label = TypeVar("Label", Demonstration, Ranking)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What was written, and what was not."""

    format: str
    rows: Mapping[str, int]
    """Rows of each file."""
    notes: Mapping[str, int]
    """What was left out, by reason."""
    mixed: str | None = None
    """The warning that one file for training holds several splits."""

    @property
    def written(self) -> int:
        """Rows of all files."""
        return sum(self.rows.values())

    def summary(self) -> str:
        """A few lines for people."""
        lines = [f"{self.format} export: {count} rows in {file}" for file, count in self.rows.items()]
        lines += [f"  note: {count} {note}" for note, count in self.notes.items()]
        return "\n".join(lines if self.mixed is None else [*lines, f"  warning: {self.mixed}"])

    __str__ = summary


def export_file(
    format: str,
    data_folder: str | Path,
    path: str | Path,
    *,
    split: Split | Literal["each"] | None = None,
    template: str = "plain",
) -> ExportReport:
    """Write the records of a data folder to ``path``, compressed if it ends in ``.gz``.

    split: only the records of this split; with ``each``, one file for each split, ``rows.train.jsonl`` and so on if ``path`` is
    ``rows.jsonl`` (none for a split without rows). All files are written, or none.
    template: the project's template. Unless it is ``plain``, a lone prompt becomes a message, so that TRL renders it too.

    Raises ConfigError for an unknown format, MissingError for no folder, DataError if there is nothing to export,
    StorageError for a full disk.
    """
    if format not in EXPORTS:
        meant = nearest(format, EXPORTS)
        raise ConfigError(
            f"there is no export format {format!r}",
            expected=", ".join(EXPORTS),
            got=repr(format),
            next_step=f"did you mean {meant!r}?" if meant else None,
        )
    path = Path(path)
    if path.is_dir():
        raise ConfigError("the export needs a file to write", expected="a file's name", got="a folder", where=str(path))
    records = Records.load(data_folder)
    parts = {path: records} if split is None else {path: _of_split(records, split)} if split != "each" else {}
    if split == "each":
        parts = {_file_of(path, one): _of_split(records, one) for one in get_args(Split)}
    notes: Counter[str] = Counter()
    rows: dict[str | Path, list[dict[str, Any]]] = {}
    for file, part in parts.items():
        if found := list(EXPORTS[format](part, notes, template == "plain")):
            rows[file] = found
    if not rows:
        raise DataError(
            f"there is nothing to export as {format}",
            expected=f"at least one {_WANTED[format]}",
            got=f"{len(records.prompts)} prompts, {len(records.demonstrations)} demonstrations, "
            f"{len(records.rankings)} rankings" + (f", none of the split {split}" if split not in (None, "each") else ""),
            where=data_folder,
            next_step="import or collect some first",
        )
    write_jsonl_files(rows)
    return ExportReport(
        format=format,
        rows={str(file): len(found) for file, found in rows.items()},
        notes=dict(notes),
        mixed=_mixed(format, records) if split is None else None,
    )


_WANTED = {
    "trl-sft": "demonstration",
    "messages": "demonstration",
    "trl-preference": "ranking with a comparison",
    "heedful": "record",
}


def _of_split(records: Records, split: Split) -> Records:
    prompts = {id: prompt for id, prompt in records.prompts.items() if prompt.split == split}
    kept = {
        name: {id: record for id, record in getattr(records, name).items() if record.prompt_id in prompts}
        for name in ("responses", "demonstrations", "rankings", "ratings")
    }
    return replace(records, prompts=prompts, **kept)


def _file_of(path: Path, split: Split) -> Path:
    """``pairs.jsonl.gz`` becomes ``pairs.train.jsonl.gz``; a name without an ending gets the split as its ending."""
    endings = "".join(path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:])
    return path.with_name(f"{path.name.removesuffix(endings)}.{split}{endings}")


def _mixed(format: str, records: Records) -> str | None:
    """The warning that a file for training holds several splits, or None."""
    if format == "heedful":
        return None
    kind = "rankings" if format == "trl-preference" else "demonstrations"
    labels: Mapping[str, Demonstration | Ranking] = getattr(records, kind)
    counts = Counter(records.prompts[label.prompt_id].split for label in labels.values() if may_train(label))
    if len(counts) < 2:
        return None
    said = ", ".join(f"{counts[split]:,} of {split}" for split in get_args(Split) if counts[split])
    return (
        f"the file mixes {kind} of several splits ({said}). No model that trains on all of it can be evaluated on valid "
        "or test: write one split with --split train, or a file for each with --split each"
    )


def _trl_sft(records: Records, notes: Counter[str], lone_as_text: bool) -> Rows:
    for demonstration in _for_training(records.demonstrations.values(), "demonstrations", notes):
        prompt = records.prompts[demonstration.prompt_id]
        as_text = lone_as_text and is_lone(prompt.turns)
        yield {"prompt": _trl_prompt(prompt, as_text), "completion": _trl_response(prompt, demonstration.text, as_text)}


def _messages(records: Records, notes: Counter[str], lone_as_text: bool) -> Rows:
    for demonstration in _for_training(records.demonstrations.values(), "demonstrations", notes):
        prompt = records.prompts[demonstration.prompt_id]
        yield {"messages": messages_of(prompt.turns) + _message(prompt, demonstration.text)}


def _trl_preference(records: Records, notes: Counter[str], lone_as_text: bool) -> Rows:
    for ranking in _for_training(records.rankings.values(), "rankings", notes):
        if len(ranking.ranks) == 1:
            notes["rankings of one response, which hold no comparison"] += 1
        prompt = records.prompts[ranking.prompt_id]
        as_text = lone_as_text and is_lone(prompt.turns)
        for better, worse in comparisons(ranking):
            yield {
                "prompt": _trl_prompt(prompt, as_text),
                "chosen": _trl_response(prompt, records.responses[better].text, as_text),
                "rejected": _trl_response(prompt, records.responses[worse].text, as_text),
            }
        ties = sum(count * (count - 1) // 2 for count in Counter(ranking.ranks).values())
        if ties:
            notes["ties dropped"] += ties


def _for_training(labels: Iterable[Label], what: str, notes: Counter[str]) -> Iterator[Label]:
    for label in labels:
        if may_train(label):
            yield label
        else:
            notes[f"{what} that no model may learn from: for evaluation or screening, or by held-out labelers"] += 1


def _trl_prompt(prompt: Prompt, as_text: bool) -> str | list[dict[str, str]]:
    return prompt.text if as_text else messages_of(prompt.turns)


def _trl_response(prompt: Prompt, text: str, as_text: bool) -> str | list[dict[str, str]]:
    return text if as_text else _message(prompt, text)


def _message(prompt: Prompt, response: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": trimmed(said(prompt.turns, response))}]


def comparisons(ranking: Ranking) -> Iterator[tuple[str, str]]:
    """(better, worse) response ids of every pair that is not tied: at most C(K, 2) (SPEC 3.3)."""
    for (first, rank), (second, other) in combinations(zip(ranking.response_ids, ranking.ranks, strict=True), 2):
        if rank != other:
            yield (first, second) if rank < other else (second, first)


def _heedful(records: Records, notes: Counter[str], lone_as_text: bool) -> Rows:
    for record in records.all():
        yield {"kind": kind_of(record), **record_to_json(record)}


EXPORTS: Mapping[str, Callable[[Records, Counter[str], bool], Rows]] = {
    "trl-sft": _trl_sft,
    "trl-preference": _trl_preference,
    "messages": _messages,
    "heedful": _heedful,
}
