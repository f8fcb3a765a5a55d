"""The domain's words: what people (or simulated labelers) wrote, ranked and rated. No torch here.

Every record is one JSON object on one line of a project's ``data/`` folder. Records refer to each other by id, never by
position. Labels are never overwritten: raw weak orders are kept and scores are derived (SPEC 2.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal, get_args

from heedful.conversation import Turn, plain_text
from heedful.errors import DataError

Split = Literal["train", "valid", "test"]
Phase = Literal["training", "evaluation", "screening"]
"""What answers are for. Only answers of the phase training train a model (SPEC 2.1, 2.4)."""
Source = Literal["labeler", "customer", "imported", "simulated"]
UseCase = Literal[
    "generation",
    "open_qa",
    "brainstorming",
    "chat",
    "rewrite",
    "summarization",
    "classification",
    "other",
    "closed_qa",
    "extract",
]

USE_CASE_SHARES: Mapping[str, float] = {
    "generation": 0.456,
    "open_qa": 0.124,
    "brainstorming": 0.112,
    "chat": 0.084,
    "rewrite": 0.066,
    "summarization": 0.042,
    "classification": 0.035,
    "other": 0.035,
    "closed_qa": 0.026,
    "extract": 0.019,
}
"""Share of each use case among the RM prompts (SPEC 1.5, Table 1); they sum to 0.999 in the paper."""

RATING_FLAGS: tuple[str, ...] = (
    "fails_task",
    "inappropriate_for_customer_assistant",
    "hallucination",
    "satisfies_constraint",
    "sexual_content",
    "violent_content",
    "encourages_harm",
    "denigrates_protected_class",
    "harmful_advice",
    "expresses_opinion",
    "expresses_moral_judgment",
)
"""The yes/no fields of the rating form (SPEC 2.3, Table 3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the model is given: the turns of a conversation that waits for an answer, or a plain text as the user's only turn.

    A template turns it into tokens. The template ``plain`` continues the text of a single turn exactly as it is.
    """

    id: str
    turns: tuple[Turn, ...]
    use_case: UseCase | None = None
    source: Source = "imported"
    user: str | None = None
    """Who submitted it; splits are made by user (SPEC 1.3)."""
    split: Split = "train"
    language: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        _require(any(turn.text.strip() for turn in self.turns), "prompt", self.id, "text that is not empty", repr(self.turns))
        _require_member(self.split, Split, "prompt", self.id, "split")
        _require_member(self.source, Source, "prompt", self.id, "source")
        if self.use_case is not None:
            _require_member(self.use_case, UseCase, "prompt", self.id, "use_case")

    @property
    def text(self) -> str:
        """All turns as one text: what the template ``plain`` lets the model continue, and what people search in."""
        return plain_text(self.turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """A labeler's own answer to a prompt (SPEC 1.4, 2.3)."""

    id: str
    prompt_id: str
    text: str
    labeler: str
    phase: Phase = "training"
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A response shown to labelers; ``model`` names the model that wrote it, or is "human". An empty text is legal."""

    id: str
    prompt_id: str
    text: str
    model: str | None = None
    finished: bool = True
    """False if the model reached its length limit before end-of-text."""
    phase: Phase = "training"
    """What it was written for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """A weak order over K responses to one prompt: ``ranks[i]`` is the rank of ``response_ids[i]``, 1 best, equal = tie.

    K = 1 is legal (it holds no comparison), and so is a ranking that is all ties.
    """

    id: str
    prompt_id: str
    response_ids: tuple[str, ...]
    ranks: tuple[int, ...]
    labeler: str
    phase: Phase = "training"
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        _require(
            len(self.response_ids) == len(self.ranks) >= 1,
            "ranking",
            self.id,
            "as many ranks as responses, at least one",
            f"{len(self.response_ids)} responses and {len(self.ranks)} ranks",
        )
        _require(
            len(set(self.response_ids)) == len(self.response_ids),
            "ranking",
            self.id,
            "each response once",
            f"response_ids={list(self.response_ids)}",
        )
        _require(min(self.ranks) >= 1, "ranking", self.id, "ranks from 1 (best)", f"ranks={list(self.ranks)}")

    @property
    def num_comparisons(self) -> int:
        """Pairs of responses that it orders: C(K, 2) (SPEC 3.3) without those that are tied."""
        return sum(one != other for one, other in combinations(self.ranks, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """One labeler's Table 3 form for one response: overall quality 1-7 and yes/no flags (SPEC 2.3)."""

    id: str
    prompt_id: str
    response_id: str
    labeler: str
    overall: int
    flags: Mapping[str, bool] = field(default_factory=dict[str, bool])
    phase: Phase = "training"
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        _require(1 <= self.overall <= 7, "rating", self.id, "overall from 1 to 7", str(self.overall))
        unknown = sorted(set(self.flags) - set(RATING_FLAGS))
        _require(not unknown, "rating", self.id, f"flags among {', '.join(RATING_FLAGS)}", ", ".join(unknown))


def _require(condition: bool, kind: str, record_id: str, expected: str, got: str) -> None:
    if not condition:
        raise DataError(f"the {kind} {record_id!r} is not valid", expected=expected, got=got)


def _require_member(value: str, options: Any, kind: str, record_id: str, name: str) -> None:
    _require(value in get_args(options), kind, record_id, f"{name} one of {', '.join(get_args(options))}", repr(value))
