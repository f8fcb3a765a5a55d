"""Cohen's and Fleiss' kappa: agreement beyond chance on yes/no fields or other nominal answers.

kappa = (observed - expected) / (1 - expected). If nearly all answers are the same, kappa can be low although labelers nearly
always agree (Feinstein and Cicchetti 1990). So read it together with the share of "yes" and the agreement.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from heedful.records import RATING_FLAGS, Rating
from heedful.statistics.answers import answers, sums_within
from heedful.statistics.intervals import Estimate, FloatArray, Labels, Numbers, bootstrap, bootstrap_ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagAgreement:
    """How well labelers agree on one yes/no field; intervals are over prompts."""

    yes: Estimate
    """Share of "yes" among all answers."""
    agreement: Estimate
    """Share of pairs of labelers that answered the same about a response."""
    kappa: Estimate
    """Fleiss' kappa."""


def labeler_kappas(
    items: Labels,
    labelers: Labels,
    values: Numbers,
    *,
    references: Collection[str] | None = None,
    clusters: Labels | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Each labeler's Cohen's kappa against all others pooled, or against all ``references`` (the researchers) pooled.

    Each of the labeler's answers is compared with each of the others' answers to the same item, and kappa is computed from the
    table of these comparisons. With two labelers it is plain Cohen's kappa. Labelers who share no item with the others, and the
    references themselves, are left out. ``count`` is the number of compared pairs of answers.
    """
    given = answers(items, labelers, values, clusters)
    size = len(given.values)
    is_reference = np.isin(given.labelers, list(references or ()))[given.labeler]
    of_others = given.counts()
    if references is not None:
        place = given.item[is_reference] * size + given.value[is_reference]
        of_others = np.bincount(place, minlength=of_others.size).reshape(of_others.shape)
    met = of_others[given.item].astype(np.float64)
    if references is None:
        met[np.arange(len(met)), given.value] -= 1
    # One table (own answer, the other's answer) for each cluster and labeler.
    place = (given.item_cluster[given.item] * len(given.labelers) + given.labeler) * size + given.value
    tables = sums_within(place, met, given.num_clusters * len(given.labelers) * size)
    rows = tables.reshape(given.num_clusters, len(given.labelers), size * size)
    counts = np.rint(rows.sum(axis=(0, 2))).astype(np.int64)
    estimates = bootstrap(rows, lambda sums: _kappa_of_tables(sums, size), counts=counts, confidence=confidence, seed=seed)
    return {
        name: estimate
        for name, estimate in zip(given.labelers, estimates, strict=True)
        if estimate.count and name not in (references or ())
    }


def fleiss_kappa(
    items: Labels,
    labelers: Labels,
    values: Numbers,
    *,
    clusters: Labels | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Kappa of any number of labelers, not necessarily the same for each item (Fleiss 1971); the interval is over clusters.

    Fleiss assumes the same number of answers for each item. If the numbers differ, each item has the same weight, both in the
    agreement and in the shares of answers (Gwet 2014). Items with fewer than two answers are left out. ``count`` is the number
    of items.
    """
    given = answers(items, labelers, values, clusters)
    counts = given.counts().astype(np.float64)
    num_answers = counts.sum(axis=1)
    judged = num_answers > 1
    shares = np.where(judged[:, None], counts / np.maximum(num_answers, 1)[:, None], 0)
    agreed = (counts * (counts - 1)).sum(axis=1) / np.maximum(num_answers * (num_answers - 1), 1)
    rows = given.cluster_sums(np.column_stack([judged, np.where(judged, agreed, 0), shares]))

    def statistic(sums: FloatArray) -> FloatArray:
        num_items = np.maximum(sums[..., 0], 1)
        expected = ((sums[..., 2:] / num_items[..., None]) ** 2).sum(axis=-1)
        return _beyond_chance(sums[..., 1] / num_items, expected)

    return bootstrap(rows[:, None, :], statistic, counts=[int(judged.sum())], confidence=confidence, seed=seed)[0]


def flag_agreement(ratings: Sequence[Rating], *, confidence: float = 0.95, seed: int = 0) -> dict[str, FlagAgreement]:
    """Share of yes, agreement and Fleiss' kappa for each yes/no field of Table 3's form that anyone answered (SPEC 2.3)."""
    found: dict[str, FlagAgreement] = {}
    for flag in RATING_FLAGS:
        own = [rating for rating in ratings if flag in rating.flags]
        if not own:
            continue
        items, labelers = [rating.response_id for rating in own], [rating.labeler for rating in own]
        prompts, said = [rating.prompt_id for rating in own], [rating.flags[flag] for rating in own]
        given = answers(items, labelers, said, prompts)
        counts = given.counts()
        num_answers, pairs = counts.sum(axis=1), (counts * (counts - 1)).sum(axis=1)
        num_yes = counts[:, given.values.index(1.0)] if 1.0 in given.values else np.zeros(given.num_items)
        found[flag] = FlagAgreement(
            yes=bootstrap_ratio(num_yes, num_answers, given.item_cluster, confidence=confidence, seed=seed),
            agreement=bootstrap_ratio(
                pairs // 2, num_answers * (num_answers - 1) // 2, given.item_cluster, confidence=confidence, seed=seed
            ),
            kappa=fleiss_kappa(items, labelers, said, clusters=prompts, confidence=confidence, seed=seed),
        )
    return found


def _kappa_of_tables(sums: FloatArray, size: int) -> FloatArray:
    tables = sums.reshape(*sums.shape[:-1], size, size)
    total = np.maximum(tables.sum(axis=(-2, -1)), 1)
    observed = np.trace(tables, axis1=-2, axis2=-1) / total
    return _beyond_chance(observed, (tables.sum(axis=-1) * tables.sum(axis=-2)).sum(axis=-1) / total**2)


def _beyond_chance(observed: FloatArray, expected: FloatArray) -> FloatArray:
    room = 1 - expected
    return np.divide(observed - expected, room, out=np.full(observed.shape, math.nan), where=room > 1e-12)
