"""Rankings in columns: one row for each pair of responses that a labeler ranked. Agreement, alpha and tau start from these."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heedful.records import Ranking
from heedful.statistics.answers import coded, last_of_each
from heedful.statistics.intervals import FloatArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparisons:
    """Judgements of pairs. A pair is two responses to one prompt, in the same order for all labelers.

    ``pair``, ``labeler`` and ``sign`` have one entry per judgement; ``labeler`` is an index into ``labelers``.
    """

    prompts: list[str]
    labelers: list[str]
    num_responses: IntArray
    """Number of different responses to each prompt."""
    pair: IntArray
    """Number of the pair; pairs of one prompt are adjacent, in the order of ``prompts``."""
    labeler: IntArray
    sign: npt.NDArray[np.int8]
    """1 if the pair's second response is better, -1 if its first is, 0 for a tie."""

    @property
    def num_pairs(self) -> IntArray:
        """Number of pairs of each prompt."""
        return self.num_responses * (self.num_responses - 1) // 2

    @property
    def pair_starts(self) -> IntArray:
        """Where each prompt's pairs start, and at the end the total number of pairs (some may have no judgement)."""
        return _starts(self.num_pairs)

    @property
    def pair_prompt(self) -> IntArray:
        """The prompt of each pair."""
        return np.repeat(np.arange(len(self.prompts)), self.num_pairs)

    def sign_counts(self, rows: npt.NDArray[np.bool_] | None = None) -> IntArray:
        """How many labelers said -1, 0 and 1 for each pair, (pairs, 3); with ``rows``, counted only in these rows."""
        pair, sign = (self.pair, self.sign) if rows is None else (self.pair[rows], self.sign[rows])
        num_pairs = int(self.pair_starts[-1])
        return np.bincount(pair * 3 + (sign + 1), minlength=num_pairs * 3).reshape(num_pairs, 3)

    def prompt_sums(self, by_pair: FloatArray | IntArray) -> FloatArray:
        """(pairs,) summed within each prompt."""
        return np.bincount(self.pair_prompt, weights=by_pair, minlength=len(self.prompts)).astype(np.float64)


def comparisons(rankings: Sequence[Ranking]) -> Comparisons:
    """All pairs of all rankings. If a labeler judged a pair twice, the later ranking counts."""
    prompts, prompt = coded([ranking.prompt_id for ranking in rankings])
    labelers, labeler = coded([ranking.labeler for ranking in rankings])
    places = [dict[str, int]() for _ in prompts]
    by_k: defaultdict[int, tuple[list[int], list[list[int]], list[tuple[int, ...]]]] = defaultdict(lambda: ([], [], []))
    prompt_of: list[int] = prompt.tolist()
    for index, (ranking, own_prompt) in enumerate(zip(rankings, prompt_of, strict=True)):
        place = places[own_prompt]
        indices, responses, ranks = by_k[len(ranking.ranks)]
        indices.append(index)
        responses.append([place.setdefault(response, len(place)) for response in ranking.response_ids])
        ranks.append(ranking.ranks)
    num_responses = np.array([len(place) for place in places], dtype=np.int64)
    starts = _starts(num_responses * (num_responses - 1) // 2)
    pairs: list[IntArray] = [np.zeros(0, np.int64)]
    signs: list[npt.NDArray[np.int8]] = [np.zeros(0, np.int8)]
    rows: list[IntArray] = [np.zeros(0, np.int64)]
    for k, (indices, responses, ranks) in by_k.items():
        first, second = np.triu_indices(k, 1)
        place_of, rank, index = np.array(responses), np.array(ranks), np.array(indices)
        a, b = place_of[:, first], place_of[:, second]
        sign = np.sign(rank[:, first] - rank[:, second])
        own = prompt[index][:, None]
        low, high = np.minimum(a, b), np.maximum(a, b)
        # Pairs are numbered in the order 01 02 .. 12 13 ..
        pairs.append((starts[own] + low * (2 * num_responses[own] - low - 1) // 2 + high - low - 1).ravel())
        signs.append(np.where(a < b, sign, -sign).astype(np.int8).ravel())
        rows.append(np.repeat(index, len(first)))
    pair, sign, row = np.concatenate(pairs), np.concatenate(signs), np.concatenate(rows)
    if len(np.unique(prompt * max(len(labelers), 1) + labeler)) < len(rankings):
        in_time = np.argsort(row, kind="stable")
        kept = in_time[last_of_each(pair[in_time] * len(labelers) + labeler[row[in_time]])]
        pair, sign, row = pair[kept], sign[kept], row[kept]
    return Comparisons(
        prompts=prompts,
        labelers=labelers,
        num_responses=num_responses,
        pair=pair,
        labeler=labeler[row],
        sign=sign,
    )


def _starts(lengths: IntArray) -> IntArray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
