"""Gold items: tasks with a known answer, mixed in with the others, to see who pays attention and understands the instructions.

A score is a share with its interval, never a verdict: 18 of 20 gold items right may mean anything from 70 to 97 %.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from heedful.errors import DataError
from heedful.records import Ranking, Rating
from heedful.statistics.intervals import Estimate, proportion


def gold_ranking_scores(
    rankings: Sequence[Ranking], gold: Mapping[str, Mapping[str, int]], *, confidence: float = 0.95, seed: int = 0
) -> dict[str, Estimate]:
    """Each labeler's share of known preferences that they got right; intervals are over prompts.

    ``gold`` maps prompt id to response id to rank (1 is best). A pair counts if gold does not tie it and the labeler ranked
    both responses. If the labeler tied it, it is half right: if ties were left out, tying every hard pair would give the best
    score. Rankings of other prompts are ignored. If a labeler ranked a prompt twice, the later ranking counts.
    """
    held = {(ranking.labeler, ranking.prompt_id): ranking for ranking in rankings if ranking.prompt_id in gold}
    by_labeler: defaultdict[str, list[tuple[str, float, int]]] = defaultdict(list)
    for (labeler, prompt_id), ranking in held.items():
        known = gold[prompt_id]
        own = [
            (rank, known[response])
            for response, rank in zip(ranking.response_ids, ranking.ranks, strict=True)
            if response in known
        ]
        # Each known pair once, with its better response first.
        right = [0.5 if a == b else float(a < b) for a, gold_a in own for b, gold_b in own if gold_a < gold_b]
        if right:
            by_labeler[labeler].append((prompt_id, sum(right), len(right)))
    return _scores(by_labeler, confidence, seed)


def gold_flag_scores(
    ratings: Sequence[Rating], gold: Mapping[str, Mapping[str, bool]], *, confidence: float = 0.95, seed: int = 0
) -> dict[str, Estimate]:
    """Each labeler's share of known yes/no fields that they got right; intervals are over prompts.

    ``gold`` maps response id to flag to answer. A known field that the labeler did not answer counts as wrong. Ratings of other
    responses are ignored. If a labeler rated a response twice, the later rating counts.
    """
    held = {(rating.labeler, rating.response_id): rating for rating in ratings if rating.response_id in gold}
    by_labeler: defaultdict[str, list[tuple[str, float, int]]] = defaultdict(list)
    for (labeler, response_id), rating in held.items():
        known = gold[response_id]
        right = sum(rating.flags.get(flag) == answer for flag, answer in known.items())
        by_labeler[labeler].append((rating.prompt_id, float(right), len(known)))
    return _scores(by_labeler, confidence, seed)


def gold_overall_scores(
    ratings: Sequence[Rating], gold: Mapping[str, tuple[int, int]], *, confidence: float = 0.95, seed: int = 0
) -> dict[str, Estimate]:
    """Each labeler's share of overall ratings within the known range; intervals are over prompts.

    ``gold`` maps response id to the lowest and highest correct rating, because no single number is the only right one.
    Raises ``DataError`` for a range outside 1-7.
    """
    for response_id, (low, high) in gold.items():
        if not 1 <= low <= high <= 7:
            raise DataError(
                "not a range of ratings", expected="1 <= low <= high <= 7", got=f"{low} to {high}", where=response_id
            )
    held = {(rating.labeler, rating.response_id): rating for rating in ratings if rating.response_id in gold}
    by_labeler: defaultdict[str, list[tuple[str, float, int]]] = defaultdict(list)
    for (labeler, response_id), rating in held.items():
        low, high = gold[response_id]
        by_labeler[labeler].append((rating.prompt_id, float(low <= rating.overall <= high), 1))
    return _scores(by_labeler, confidence, seed)


def _scores(by_labeler: Mapping[str, Sequence[tuple[str, float, int]]], confidence: float, seed: int) -> dict[str, Estimate]:
    """Each labeler's share, from (prompt, number right, number known) for each item."""
    return {
        labeler: proportion(
            [right for _, right, _ in rows],
            [prompt_id for prompt_id, _, _ in rows],
            trials=[known for _, _, known in rows],
            confidence=confidence,
            seed=seed,
        )
        for labeler, rows in sorted(by_labeler.items())
    }
