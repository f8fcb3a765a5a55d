"""Starting values of a conversation for each use case (SPEC 1.5): an example to overwrite, and how models answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from heedful.labeling.usage.conversations import Mode, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """An example prompt with the sampling that suits it."""

    example: str
    sampling: Sampling
    mode: Mode = "chat"


DEFAULT = Preset(example="", sampling=Sampling(temperature=1.0, max_tokens=256))

_EXACT = Sampling(temperature=0.2, max_tokens=128)
_FREE = Sampling(temperature=1.0, max_tokens=512)

PRESETS: Mapping[str, Preset] = {
    "generation": Preset(example="Write a short story about a lighthouse keeper who is afraid of the sea.", sampling=_FREE),
    "open_qa": Preset(example="Why is the sky blue?", sampling=Sampling(temperature=0.5, max_tokens=256)),
    "brainstorming": Preset(example="List five ideas for a rainy afternoon with two small children.", sampling=_FREE),
    "chat": Preset(example="Hello! I am looking for a book like “Emma”. What should I read next?", sampling=DEFAULT.sampling),
    "rewrite": Preset(
        example="Make this friendlier: Your order is late because you gave us the wrong address.",
        sampling=Sampling(temperature=0.7, max_tokens=256),
    ),
    "summarization": Preset(
        example="Summarize in one sentence: Jupiter is the fifth planet from the Sun and the largest in the Solar System.",
        sampling=Sampling(temperature=0.3, max_tokens=256),
    ),
    "classification": Preset(
        example="Is this review positive or negative? The soup was cold, but the waiter saved the evening.", sampling=_EXACT
    ),
    "other": Preset(example="", sampling=DEFAULT.sampling),
    "closed_qa": Preset(
        example="The train leaves Lyon at nine and reaches Geneva at eleven. How long does it take?", sampling=_EXACT
    ),
    "extract": Preset(example="List the cities: We drove from Lyon through Geneva to Milan.", sampling=_EXACT),
}
