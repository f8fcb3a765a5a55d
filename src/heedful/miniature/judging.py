"""Judges one response to one prompt by features that can be checked with the prompt's record and the world alone.

Nothing here knows which model wrote the response. :mod:`heedful.miniature.labelers` weighs the features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heedful.errors import DataError
from heedful.miniature import lexicon as lex
from heedful.miniature.correctness import verdict
from heedful.miniature.grammar import split_sentences, well_formed_share
from heedful.miniature.invented_world import World
from heedful.miniature.verdict import Text, Verdict, take_apart
from heedful.records import Prompt

_INSTRUCTION_WORDS = frozenset((
    "Write", "Tell", "Name", "List", "Give", "Can", "Suggest", "Describe", "Translate", "Say", "Rewrite", "Put", "Change",
    "Make", "Which", "What", "Who", "Where", "Why", "When", "Is", "Does", "How", "Read", "Text", "Find",
    "Task", "Question", "Review", "In", "User", "Helper", "Answer",
))  # fmt: skip
"""A line that begins with one of these is a further instruction, not part of the answer."""
_PLEASE = ("Please write", "Please make", "Please be", "Please help")
_WARM_WORDS = frozenset((
    "please", "Please", "Thank", "thank", "Dear", "hope", "Hello", "glad", "sorry", "friend", "kind", "wish",
    "happy", "wonderful", "help", "helps", "course",
))  # fmt: skip
_INSULTS = frozenset(lex.INSULTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What anyone could check about a response."""

    attempts: bool
    """Does the kind of thing that was asked for."""
    constraints: tuple[bool, ...]
    """One for each explicit constraint of the prompt; all False if the task is not attempted."""
    correct: float
    """0 to 1: right person and topic, true fact, right items, right rewriting..."""
    hallucination: bool
    """States something false or not in the text (closed domain)."""
    well_formed: float
    """Share of the text (0 to 1) that follows the world's grammar or the requested format."""
    consistent: float
    """0 to 1: pronouns agree, and "the lamp" was there before."""
    instruction_like: bool
    """Continues with further instructions, as the base model does."""
    repetition: float
    """Share of five-word sequences that occurred before in the text."""
    rude: bool
    finished: bool
    """False if it was cut at the length limit."""
    num_words: int
    warm: float
    """0 to 1: kind words."""
    long_form: bool
    """A story, a letter or a poem: how long it should be is a matter of taste."""
    vivid: float
    """0 to 1: adjectives, colours and feelings per sentence."""
    full_sentence: bool
    """At least three words and a final mark; False for a list."""

    @property
    def constraints_share(self) -> float:
        """Share of the constraints that are satisfied; 1 if there are none and the task is attempted."""
        return sum(self.constraints) / len(self.constraints) if self.constraints else float(self.attempts)

    @property
    def perfect(self) -> bool:
        """Whether there is nothing to complain about."""
        right = self.attempts and all(self.constraints) and self.correct == self.well_formed == self.consistent == 1.0
        return right and self.finished and not (self.hallucination or self.instruction_like or self.rude)


def judge(world: World, prompt: Prompt, response_text: str, finished: bool = True) -> Judgement:
    """Judge a response. Raises DataError for a prompt that this world's users did not write."""
    meta: Mapping[str, Any] = prompt.metadata
    if "task" not in meta:
        raise DataError(
            f"simulated labelers cannot judge answers to the prompt {prompt.id!r}",
            expected='metadata with a "task", as heedful.miniature.tasks.prompts writes it',
            got=f"metadata with {', '.join(meta) or 'nothing'}",
            next_step='set labelers = "people" in heedful.toml',
        )
    text = take_apart(response_text)
    found = verdict(world, dict(meta), text)
    lines = text.text.split("\n")
    # A text that continues with instructions after an answer is still an answer; one that begins with them is not.
    attempts = found.attempts and not _is_instruction(lines[0])
    constraints = tuple([attempts and satisfied(c["kind"], c["value"], text, found) for c in meta["constraints"]])
    return Judgement(
        attempts=attempts,
        constraints=constraints,
        correct=found.correct,
        hallucination=found.hallucination,
        well_formed=well_formed_share(text.sentences) if found.form is None else found.form,
        consistent=found.consistent,
        instruction_like=any(_is_instruction(line) for line in lines),
        repetition=_repetition(text.words),
        rude=not text.word_set.isdisjoint(_INSULTS),
        finished=finished,
        num_words=len(text.words),
        warm=min(1.0, 0.5 * text.kind + 0.5 * len(text.word_set & _WARM_WORDS)),
        long_form=meta["task"] in ("story", "letter", "poem"),
        vivid=_vivid(text),
        full_sentence=not found.items and len(text.words) >= 3 and text.text[-1:] in (".", "!", "?"),
    )


def satisfied(kind: str, value: Any, text: Text, found: Verdict) -> bool:
    """Return whether one explicit constraint of an instruction is kept."""
    match kind:
        case "use_word" | "person":
            return value in text.word_set
        case "not_word":
            return value not in text.word_set
        case "sentences":
            return len(_body(text)) == value
        case "lines":
            return len([line for line in text.text.split("\n") if line.strip()]) == value
        case "end":
            return text.text.rstrip(" .!?").endswith(value)
        case "begin":
            return text.text.startswith(value)
        case "mood":
            wanted, unwanted = (lex.HAPPY, lex.SAD) if value == "G" else (lex.SAD, lex.HAPPY)
            return not text.word_set.isdisjoint(wanted) and text.word_set.isdisjoint(unwanted)
        case "count":
            return len(set(found.items)) == len(found.items) == value
        case "exclude":
            return value not in text.word_set
        case "numbered":
            lines = text.text.split("\n")
            return all(line.startswith(f"{i}. ") for i, line in enumerate(lines, start=1))
        case "one_word":
            return len(text.words) == 1
        case "full_sentence":
            return len(text.words) >= 3 and text.text[-1:] == "."
        case _:
            raise DataError(
                "an unknown constraint in a prompt's metadata", expected="a kind that miniature.instructions makes", got=kind
            )


def _body(text: Text) -> list[str]:
    """Return the sentences that count. The greeting and the signature of a letter do not."""
    sentences = split_sentences(text.text)
    if text.text.startswith("Dear "):
        return [s for s in sentences if not s.startswith(("Dear ", "Yours, ", "Your friend, "))]
    return sentences


def _is_instruction(line: str) -> bool:
    return line.partition(" ")[0].rstrip(":") in _INSTRUCTION_WORDS or line.startswith(_PLEASE)


def _repetition(words: list[str]) -> float:
    runs = [tuple(words[i : i + 5]) for i in range(len(words) - 4)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _vivid(text: Text) -> float:
    if not text.sentences:
        return 0.0
    colourful = sum(lex.CLASS_OF.get(word, "") in ("D", "C", "G", "B") for word in text.word_set)
    return min(1.0, colourful / len(text.sentences))


def is_rude(text: str) -> bool:
    """Return whether a text contains one of the world's insults."""
    return not take_apart(text).word_set.isdisjoint(_INSULTS)
