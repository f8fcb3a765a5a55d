"""The simulated labelers: they write demonstrations, and they rate and rank outputs side by side (SPEC 2.3)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from heedful.labeling.queue.recording import Work, assessing
from heedful.miniature.invented_world import World
from heedful.miniature.judging import judge
from heedful.miniature.labelers import Group, Labeler, held_out_labelers, rank, rate, training_labelers
from heedful.miniature.tasks import demonstrate
from heedful.records import Prompt, Response

READING = 4.0
"""A labeler's reading speed, in words a second."""
FORM = 10.0
"""Seconds to fill in an output's form and place it in the order."""
WRITING = 0.7
"""A labeler's writing speed, in words a second."""


class Panel:
    """All labelers of one world. Only the prompt's id and the seed decide which of them see a prompt."""

    def __init__(self, world: World, *, seed: int) -> None:
        self.world, self.seed = world, seed
        self.labelers: Mapping[Group, list[Labeler]] = {
            "training": training_labelers(seed),
            "held_out": held_out_labelers(seed),
        }

    @property
    def groups(self) -> dict[str, Group]:
        """The group of each labeler, by name."""
        return {labeler.name: group for group, labelers in self.labelers.items() for labeler in labelers}

    def demonstrate(self, prompt: Prompt) -> Work:
        """Have one training labeler write the prompt's demonstration."""
        labeler = self._chosen(prompt, "training", 1)[0]
        text = demonstrate(self.world, prompt, labeler=labeler, seed=self.seed)
        seconds = len(prompt.text.split()) / READING + len(text.split()) / WRITING
        return Work(
            kind="demonstrate",
            labeler=labeler.name,
            prompt_id=prompt.id,
            answer={"text": text},
            seconds_spent=round(seconds, 1),
        )

    def assess(self, prompt: Prompt, responses: Sequence[Response], *, group: Group, labelers: int) -> list[Work]:
        """Have ``labelers`` labelers of a group rate and rank the responses."""
        judgements = [judge(self.world, prompt, response.text, response.finished) for response in responses]
        words = len(prompt.text.split()) + sum(judgement.num_words for judgement in judgements)
        seconds = round(words / READING + len(responses) * FORM, 1)
        works: list[Work] = []
        for labeler in self._chosen(prompt, group, labelers):
            pairs = zip(responses, judgements, strict=True)
            ratings = [rate(labeler, prompt, response, judgement, seed=self.seed) for response, judgement in pairs]
            ranking = rank(labeler, prompt, responses, judgements, seed=self.seed)
            works.append(assessing(ranking, ratings, seconds_spent=seconds))
        return works

    def _chosen(self, prompt: Prompt, group: Group, count: int) -> list[Labeler]:
        def place(labeler: Labeler) -> bytes:
            return hashlib.blake2b(f"{self.seed} {prompt.id} {labeler.name}".encode(), digest_size=8).digest()

        return sorted(self.labelers[group], key=place)[:count]
