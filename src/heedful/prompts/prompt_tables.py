"""The paper's statistics of its data, for a project's data (SPEC 1.4 to 1.6; Tables 1 and 6 to 11, and languages).

The data sets are those that ``heedful align`` makes of the records. SFT: prompts with a demonstration. RM: prompts with a
ranking. Labels that no model may learn from (for evaluation or screening, or by held-out labelers) do not count. PPO: for
training the prompts without a demonstration, or all if those are less than half; for validation all of the split valid.
A prompt may be in several, or in none yet, so their sizes do not add up to "all".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from heedful.conversation import plain_text
from heedful.errors import MissingError
from heedful.project.data_folder import file_name, turns_in
from heedful.project.files import read_jsonl
from heedful.prompts.intake import count_words
from heedful.records import Source, Split, UseCase

DATA_SETS = ("SFT", "RM", "PPO", "all")

PROMPT_METADATA: Mapping[str, str] = {
    "ambiguous": "ambiguous",
    "sensitive_content": "sensitive content",
    "identity_dependent": "identity dependent",
    "closed_domain": "closed domain",
    "continuation_style": "continuation style",
    "requests_opinionated_content": "requests opinionated content",
    "requests_advice": "requests advice",
    "requests_moral_judgment": "requests moral judgment",
    "requests_opinion": "requests opinion, advice or moral judgment (one mark)",
    "explicit_safety_constraints": "explicit safety constraints",
    "other_explicit_constraints": "other explicit constraints",
    "intent_unclear": "intent unclear",
}
"""The yes/no fields about a prompt (SPEC 1.6, Table 7): key in a prompt's metadata, and words.

Earlier versions had one mark for opinionated content, advice and moral judgment: a row of its own, for prompts that have it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """A row of Tables 9 to 11: how many texts, and their lengths in tokens or words."""

    count: int
    mean: float
    std: float
    """The sample's standard deviation (n - 1), as in pandas; 0 for a single text."""
    min: int
    q25: float
    q50: float
    q75: float
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerShares:
    """A row of Table 8: owners of a data set's prompts in a split, and how many prompts they have."""

    owners: int
    prompts: int
    """Prompts that have an owner."""
    mean: float
    median: float
    max: int
    top_ten: float
    """Share of the ten owners with the most prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """All tables; ``unit`` is what lengths are counted in. Keys with no prompt are left out."""

    unit: str
    num_prompts: int
    use_cases: Mapping[str, Mapping[str, int]]
    """Table 1: data set -> use case ("not given" too) -> prompts."""
    sizes: Mapping[str, Mapping[tuple[str, str], int]]
    """Table 6: data set -> (split, source) -> prompts."""
    metadata: Mapping[str, tuple[int, int]]
    """Table 7: field -> (prompts with yes, prompts with an answer), over all prompts."""
    owners: Mapping[tuple[str, str], OwnerShares]
    """Table 8: (data set, split) -> owners."""
    by_data_set: Mapping[tuple[str, str], Lengths]
    """Table 9: (data set, split) -> lengths of prompts."""
    by_use_case: Mapping[str, Lengths]
    """Table 10: use case -> lengths, of all prompts."""
    by_source: Mapping[tuple[str, str], Lengths]
    """Table 11: ("prompt" or "demonstration", the prompt's source) -> lengths."""
    languages: Mapping[str, int]
    """Language ("unknown" too) -> prompts."""
    lengths: npt.NDArray[np.int64]
    """Length of every prompt, for the histogram."""
    needs_review: int
    """Prompts that are flagged for review."""


def prompt_tables(data: str | Path, *, length: Callable[[str], int] = count_words, unit: str = "words") -> Tables:
    """The tables of a data folder. Raises MissingError if it holds no prompt, DataError for a line that cannot be read."""
    data = Path(data)
    prompts = _Columns(data, length)
    if not prompts.ids:
        raise MissingError(
            "there are no prompts yet",
            expected="prompts in the project",
            got="none",
            where=data / file_name("prompt"),
            next_step="import some: `heedful prompts import FORMAT FILE`, or `heedful import FORMAT FILE`",
        )
    place = {id: number for number, id in enumerate(prompts.ids)}
    demonstrated, ranked = np.zeros(len(place), dtype=bool), np.zeros(len(place), dtype=bool)
    answers: dict[tuple[str, str], list[int]] = {}
    for row in filter(_may_train, _rows(data, "demonstration")):
        number = place[row["prompt_id"]]
        demonstrated[number] = True
        answers.setdefault(("demonstration", prompts.sources[number]), []).append(length(row["text"]))
    for row in filter(_may_train, _rows(data, "ranking")):
        ranked[place[row["prompt_id"]]] = True
    lengths = np.array(prompts.lengths, dtype=np.int64)
    splits, sources, use_cases = map(np.array, (prompts.splits, prompts.sources, prompts.use_cases))
    members = {"SFT": demonstrated, "RM": ranked, "PPO": _for_ppo(demonstrated, splits), "all": np.ones(len(place), dtype=bool)}
    owners = np.array(prompts.owners, dtype=np.int64)
    by_split = {(name, split): members[name] & (splits == split) for name in DATA_SETS for split in get_args(Split)}
    by_split = {key: mask for key, mask in by_split.items() if mask.any()}
    return Tables(
        unit=unit,
        num_prompts=len(place),
        use_cases={
            name: _ordered(Counter(use_cases[mask].tolist()), (*get_args(UseCase), NOT_GIVEN))
            for name, mask in members.items()
            if mask.any()
        },
        sizes={
            name: dict(Counter(zip(splits[mask].tolist(), sources[mask].tolist(), strict=True)))
            for name, mask in members.items()
        },
        metadata={field: tuple(counts) for field, counts in prompts.metadata.items() if counts[1]},  # type: ignore[misc]
        owners={key: _owner_shares(owners[mask]) for key, mask in by_split.items() if (owners[mask] >= 0).any()},
        by_data_set={key: lengths_of(lengths[mask]) for key, mask in by_split.items()},
        by_use_case={
            use_case: lengths_of(lengths[use_cases == use_case])
            for use_case in (*get_args(UseCase), NOT_GIVEN)
            if (use_cases == use_case).any()
        },
        by_source={
            **{
                ("prompt", source): lengths_of(lengths[sources == source])
                for source in get_args(Source)
                if (sources == source).any()
            },
            **{key: lengths_of(values) for key, values in answers.items()},
        },
        languages=dict(prompts.languages.most_common()),
        lengths=lengths,
        needs_review=prompts.needs_review,
    )


def _for_ppo(demonstrated: npt.NDArray[np.bool_], splits: npt.NDArray[np.str_]) -> npt.NDArray[np.bool_]:
    """PPO's training prompts, by the rule of ``project.selection.prompts_for_policy``, and its validation prompts."""
    train = splits == "train"
    free = ~demonstrated & train
    return (free if 2 * free.sum() >= train.sum() else train) | (splits == "valid")


NOT_GIVEN = "not given"


def lengths_of(values: Iterable[int] | npt.NDArray[np.int64]) -> Lengths:
    """Summary of lengths (at least one); quartiles are interpolated linearly, as pandas' ``describe`` does."""
    values = np.asarray(list(values) if not isinstance(values, np.ndarray) else values, dtype=np.int64)
    q25, q50, q75 = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return Lengths(
        count=len(values),
        mean=float(values.mean()),
        std=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        min=int(values.min()),
        q25=q25,
        q50=q50,
        q75=q75,
        max=int(values.max()),
    )


class _Columns:
    """What the tables need to know about every prompt, in the order of the file."""

    def __init__(self, data: Path, length: Callable[[str], int]) -> None:
        self.ids: list[str] = []
        self.splits: list[str] = []
        self.sources: list[str] = []
        self.use_cases: list[str] = []
        self.owners: list[int] = []
        self.lengths: list[int] = []
        self.languages: Counter[str] = Counter()
        self.metadata = {field: [0, 0] for field in PROMPT_METADATA}
        self.needs_review = 0
        numbers: dict[str, int] = {}
        for row in _rows(data, "prompt"):
            self.ids.append(row["id"])
            self.splits.append(row.get("split", "train"))
            self.sources.append(row.get("source", "imported"))
            self.use_cases.append(row.get("use_case") or NOT_GIVEN)
            owner = row.get("user")
            self.owners.append(-1 if owner is None else numbers.setdefault(owner, len(numbers)))
            self.lengths.append(length(plain_text(turns_in(row))))
            self.languages[row.get("language") or NOT_GIVEN] += 1
            metadata = row.get("metadata", {})
            self.needs_review += metadata.get("needs_review") is True
            for field, counts in self.metadata.items():
                if isinstance(metadata.get(field), bool):
                    counts[0] += metadata[field]
                    counts[1] += 1


def _rows(data: Path, kind: Any) -> Iterable[dict[str, Any]]:
    path = data / file_name(kind)
    return (row for _, row in read_jsonl(path)) if path.exists() else ()


def _owner_shares(owners: npt.NDArray[np.int64]) -> OwnerShares:
    counts = np.sort(np.unique(owners[owners >= 0], return_counts=True)[1])[::-1]
    return OwnerShares(
        owners=len(counts),
        prompts=int(counts.sum()),
        mean=float(counts.mean()),
        median=float(np.median(counts)),
        max=int(counts[0]),
        top_ten=float(counts[:10].sum() / counts.sum()),
    )


def _may_train(row: Mapping[str, Any]) -> bool:
    """Like ``selection.may_train``, for a stored label."""
    return row.get("phase", "training") == "training" and (row.get("metadata") or {}).get("group") != "held_out"


def _ordered(counts: Counter[str], order: tuple[str, ...]) -> dict[str, int]:
    return {name: counts[name] for name in order if counts[name]}
