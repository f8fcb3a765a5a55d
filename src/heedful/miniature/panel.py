"""The simulated labelers at work: they see a prompt's outputs side by side, rate each, then rank all (SPEC 2.3)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from heedful.miniature.judging import judge
from heedful.miniature.labelers import Group, Labeler, held_out_labelers, rank, rate, training_labelers
from heedful.miniature.world import World
from heedful.records import Prompt, Ranking, Rating, Response


class Panel:
    """All labelers of one world; which of them see a prompt depends on the prompt's id and the seed alone."""

    def __init__(self, world: World, *, seed: int) -> None:
        self.world, self.seed = world, seed
        self.labelers: Mapping[Group, list[Labeler]] = {
            "training": training_labelers(seed),
            "held_out": held_out_labelers(seed),
        }

    @property
    def groups(self) -> dict[str, Group]:
        """Group of each labeler by name."""
        return {labeler.name: group for group, labelers in self.labelers.items() for labeler in labelers}

    def assess(
        self, prompt: Prompt, responses: Sequence[Response], *, group: Group, labelers: int
    ) -> tuple[list[Ranking], list[Rating]]:
        """``labelers`` people of a group each rate and rank the responses."""
        judgements = [judge(self.world, prompt, response.text, response.finished) for response in responses]
        rankings: list[Ranking] = []
        ratings: list[Rating] = []
        for labeler in self._chosen(prompt, group, labelers):
            pairs = zip(responses, judgements, strict=True)
            ratings += [rate(labeler, prompt, response, judgement, seed=self.seed) for response, judgement in pairs]
            rankings.append(rank(labeler, prompt, responses, judgements, seed=self.seed))
        return rankings, ratings

    def writer(self, prompt: Prompt) -> Labeler:
        """The training labeler who writes the prompt's demonstration."""
        return self._chosen(prompt, "training", 1)[0]

    def _chosen(self, prompt: Prompt, group: Group, count: int) -> list[Labeler]:
        def place(labeler: Labeler) -> bytes:
            return hashlib.blake2b(f"{self.seed} {prompt.id} {labeler.name}".encode(), digest_size=8).digest()

        return sorted(self.labelers[group], key=place)[:count]
