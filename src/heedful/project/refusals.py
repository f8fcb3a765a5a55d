"""What a project's model declines: the policy file, the prompts that are marked with its categories, and their weights.

A marked prompt has ``decline`` or ``do_not_decline`` in its metadata, with the name of a category. Marked prompts are apart
from all others: :func:`apart` separates them before any stage, so that no labeler is asked about them. No torch here.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from heedful.errors import ConfigError, DataError, MissingError
from heedful.project.data_folder import Records
from heedful.project.fingerprints import digest_of_records, fingerprint_of
from heedful.project.selection import may_train
from heedful.project.structure import from_mapping, nearest
from heedful.records import Demonstration, Prompt

MARKS = ("decline", "do_not_decline")
"""Keys of a prompt's metadata; the value is a category."""
POLICY = "policy"
"""The labeler of a refusal that the policy file words."""

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_FIRST_SENTENCE = re.compile(r".*?[.!?](?=\s|$)", re.DOTALL)


class Mark(NamedTuple):
    """What a marked prompt asks of the model."""

    category: str
    decline: bool
    """False: it only looks like the category, and must be answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A category as the policy file has it."""

    covers: str
    answer: str
    phrases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """One kind of request that the model declines."""

    name: str
    covers: str
    """What it covers, for people to read."""
    answer: str
    """What the model should say."""
    phrases: tuple[str, ...]
    """An answer that contains one of these declines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusals:
    """A policy, the weight of each of its categories (0: off), and the marked prompts with their demonstrations."""

    categories: Mapping[str, Category]
    weights: Mapping[str, float]
    records: Records

    def training_prompts(self) -> list[Prompt]:
        """Marked prompts that models learn from: of the split train, of categories that are on, none with a held-out text."""
        held_out = {prompt.text for prompt in self.held_out_prompts()}
        return [
            prompt
            for prompt in self.records.prompts.values()
            if prompt.split == "train" and self.weight(prompt.id) > 0 and prompt.text not in held_out
        ]

    def held_out_prompts(self) -> list[Prompt]:
        """Marked prompts that models are asked but never learn from: of the splits valid and test, of all categories."""
        return [prompt for prompt in self.records.prompts.values() if prompt.split != "train"]

    def demonstrations(self) -> list[Demonstration]:
        """What SFT learns of the training prompts: labelers' answers, or the category's where there is none to be declined."""
        written = self.written()
        found: list[Demonstration] = []
        for prompt in self.training_prompts():
            mark = self.mark(prompt.id)
            found += written.get(prompt.id, [])
            if mark.decline and prompt.id not in written:
                found.append(
                    Demonstration(
                        id=f"refusal-{prompt.id}",
                        prompt_id=prompt.id,
                        text=self.categories[mark.category].answer,
                        labeler=POLICY,
                        metadata={"refusal": mark.category},
                    )
                )
        return found

    def written(self) -> dict[str, list[Demonstration]]:
        """Labelers' own answers to marked prompts that may train, by prompt."""
        found: dict[str, list[Demonstration]] = {}
        for one in self.records.demonstrations.values():
            if may_train(one):
                found.setdefault(one.prompt_id, []).append(one)
        return found

    def refusal_texts(self) -> set[str]:
        """What declines, word for word: the answers of the categories that are on, and labelers' answers that decline."""
        answers = {one.answer.strip() for name, one in self.categories.items() if self.weights[name]}
        return answers | {one.text.strip() for one in self.demonstrations() if self.mark(one.prompt_id).decline}

    def mark(self, prompt_id: str) -> Mark:
        """The mark of a prompt among the records."""
        mark = mark_of(self.records.prompts[prompt_id])
        assert mark is not None
        return mark

    def weight(self, prompt_id: str) -> float:
        """How much each example of a marked prompt counts."""
        return self.weights[self.mark(prompt_id).category]

    def declines(self, text: str) -> bool:
        """Whether an answer declines: it contains a phrase of any category, whatever its case, spaces and apostrophes."""
        said = _plain(text)
        return any(_plain(phrase) in said for category in self.categories.values() for phrase in category.phrases)

    def identity(self, *, weighted: bool = True) -> str:
        """A digest of all that training takes from here; without the weights, of what comparisons are made of."""
        prompts = self.training_prompts()
        on = sorted({self.mark(prompt.id).category for prompt in prompts})
        answers = {name: [self.categories[name].answer, *([self.weights[name]] if weighted else [])] for name in on}
        return fingerprint_of([answers, digest_of_records(prompts), digest_of_records(self.demonstrations())])


def mark_of(prompt: Prompt) -> Mark | None:
    """The mark of a prompt, or None. Raises DataError if it is not one category."""
    found = marks_in(prompt.metadata)
    if not found:
        return None
    if len(found) > 1 or not all(isinstance(name, str) for name in found.values()):
        raise DataError(
            f"the prompt {prompt.id!r} is marked in a way that cannot be read",
            expected=f"one of {' and '.join(MARKS)} in its metadata, with the name of a category",
            got=str(found),
            next_step="correct its metadata in data/prompts.jsonl",
        )
    ((key, name),) = found.items()
    return Mark(str(name), key == "decline")


def marks_in(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a prompt's metadata that mark it."""
    return {key: metadata[key] for key in MARKS if key in metadata}


def apart(records: Records) -> tuple[Records, Records]:
    """All records but those of marked prompts, and the marked prompts with their labels and responses."""
    marked = {id for id, prompt in records.prompts.items() if marks_in(prompt.metadata)}
    if not marked:
        return records, Records()
    return _of_prompts(records, records.prompts.keys() - marked), _of_prompts(records, marked)


def ordinary(records: Records) -> Records:
    """All records but those of marked prompts."""
    return apart(records)[0]


def read_policy(path: Path) -> dict[str, Category]:
    """The categories of a policy file, by name. Raises MissingError, ConfigError for a category that cannot be used."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError(
            "the policy of refusals is not there",
            expected="a TOML file with a table for each category, absolute or relative to the project",
            got="no such file",
            where=path,
            next_step="write it (docs/refusals.md), or take policy out of [refusals] in heedful.toml",
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            "the policy of refusals cannot be read", expected="TOML in UTF-8", got=str(error), where=path
        ) from None
    if not tables:
        raise ConfigError("the policy of refusals names no category", expected="a table for each", got="none", where=path)
    return {name: _category(name, table, path) for name, table in tables.items()}


def refusals_in(path: Path, weights: Mapping[str, float], marked: Records, *, data: Path, config: Path) -> Refusals:
    """A policy with its weights (1 where none is given) and marked prompts. ``data``, ``config``: where they come from.

    Raises MissingError or ConfigError for the policy and weights, DataError naming the row for a prompt whose category the
    policy does not have, and for a demonstration that does not do what its prompt's mark says.
    """
    categories = read_policy(path)
    for name in weights:
        if name not in categories:
            raise ConfigError(
                f"[refusals] weights names {name!r}, which is no category of the policy",
                expected=", ".join(categories),
                got=repr(name),
                where=config,
                next_step=_meant(name, categories) or f"take it out, or add the category to {path.name}",
            )
    for prompt in marked.prompts.values():
        mark = mark_of(prompt)
        if mark is not None and mark.category not in categories:
            raise DataError(
                f"the prompt {prompt.id!r} is marked with {mark.category!r}, which is no category of the policy",
                expected=", ".join(categories),
                got=repr(mark.category),
                where=data / "prompts.jsonl",
                next_step=_meant(mark.category, categories) or f"correct its metadata, or add the category to {path.name}",
            )
    found = Refusals(
        categories=categories, weights={name: float(weights.get(name, 1.0)) for name in categories}, records=marked
    )
    _check_demonstrations(found, data)
    return found


def _category(name: str, table: object, path: Path) -> Category:
    where = f"{path} [{name}]"
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "a category's name has other characters than it may have",
            expected="letters, digits, _ and -",
            got=repr(name),
            where=path,
        )
    row = from_mapping(_Row, table, what=f"the category [{name}]", where=where, error=ConfigError)
    for key, text in (("covers", row.covers), ("answer", row.answer), *(("phrases", phrase) for phrase in row.phrases)):
        if not text.strip():
            raise ConfigError(f"{key} of the category [{name}] is empty", expected="a text", got=repr(text), where=where)
    phrases = row.phrases or (_first_sentence(row.answer),)
    if not any(_plain(phrase) in _plain(row.answer) for phrase in phrases):
        raise ConfigError(
            f"the answer of the category [{name}] contains none of its phrases: it would not be counted as a refusal",
            expected="a phrase that the answer contains",
            got=", ".join(map(repr, phrases)),
            where=where,
            next_step="add such a phrase, or leave phrases out: then the answer's first sentence is the phrase",
        )
    return Category(name=name, covers=row.covers, answer=row.answer, phrases=phrases)


def _check_demonstrations(refusals: Refusals, data: Path) -> None:
    """Answers to prompts to be declined decline, and those to near misses do not."""
    wrong = [
        one
        for prompt_id, own in refusals.written().items()
        for one in own
        if refusals.declines(one.text) != refusals.mark(prompt_id).decline
    ]
    if wrong:
        first, decline = wrong[0], refusals.mark(wrong[0].prompt_id).decline
        others = f"; {len(wrong) - 1:,} other demonstrations are wrong too" if len(wrong) > 1 else ""
        raise DataError(
            f"the demonstration {first.id!r} "
            + (
                "does not decline, but its prompt is marked decline" if decline else "declines, but its prompt must be answered"
            ),
            expected=("an answer with" if decline else "an answer without") + " any of the phrases of the policy",
            got=f"{first.text[:80]!r} (prompt {first.prompt_id!r}){others}",
            where=data / "demonstrations.jsonl",
            next_step="correct the demonstration or the mark" + (", or add a phrase to the policy" if decline else ""),
        )


def _of_prompts(records: Records, ids: Iterable[str]) -> Records:
    kept = set(ids)
    return Records(
        prompts={id: prompt for id, prompt in records.prompts.items() if id in kept},
        responses={id: one for id, one in records.responses.items() if one.prompt_id in kept},
        demonstrations={id: one for id, one in records.demonstrations.items() if one.prompt_id in kept},
        rankings={id: one for id, one in records.rankings.items() if one.prompt_id in kept},
        ratings={id: one for id, one in records.ratings.items() if one.prompt_id in kept},
    )


def _first_sentence(text: str) -> str:
    found = _FIRST_SENTENCE.match(text.strip())
    return found[0] if found else text.strip()


def _plain(text: str) -> str:
    return " ".join(text.casefold().replace("’", "'").split())


def _meant(name: str, known: Iterable[str]) -> str | None:
    close = nearest(name, known)
    return f"did you mean {close!r}?" if close else None


def in_words(refusals: Refusals) -> Iterator[str]:
    """A line for each category: its weight, and how many prompts are marked with it."""
    for name, weight in refusals.weights.items():
        marked = [(refusals.mark(id), one.split == "train") for id, one in refusals.records.prompts.items()]
        found = Counter((mark.decline, trains) for mark, trains in marked if mark.category == name)
        decline, answer = (f"{found[side, True]:,} to train on, {found[side, False]:,} held out" for side in (True, False))
        state = f"weight {weight:g}" if weight else "off"
        yield f"refusals of {name}: {state}; marked decline: {decline}; marked do_not_decline: {answer}"
