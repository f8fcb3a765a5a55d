"""Answers in columns: who said what about which item. A missing answer is NaN or has no row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heedful.errors import DataError
from heedful.statistics.intervals import FloatArray, IntArray, Labels, Numbers

MAX_VALUES = 32
"""Most distinct values of a scale, because coefficients are computed from tables of values by values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """One answer per row; the columns hold indices into the sorted lists of names."""

    labelers: list[str]
    values: list[float]
    num_items: int
    num_clusters: int
    item: IntArray
    labeler: IntArray
    value: IntArray
    item_cluster: IntArray
    """Cluster of each item."""

    def counts(self) -> IntArray:
        """How often each item got each value, (items, values)."""
        shape = (self.num_items, len(self.values))
        return np.bincount(self.item * shape[1] + self.value, minlength=shape[0] * shape[1]).reshape(shape)

    def cluster_sums(self, by_item: FloatArray) -> FloatArray:
        """(items, columns) summed within each cluster."""
        return sums_within(self.item_cluster, by_item, self.num_clusters)


def answers(items: Labels, labelers: Labels, values: Numbers, clusters: Labels | None = None) -> Answers:
    """Prepare columns as they come from a form: drop NaN, and keep only each labeler's last answer to an item.

    ``clusters[i]``: the cluster of row i, which was drawn at random (if items are responses, the prompt). By default each item
    is its own cluster. Raises ``DataError`` for columns of different lengths, an item in two clusters, or more than 32 values.
    """
    given = np.asarray(values, dtype=np.float64)
    lengths = [len(items), len(labelers), len(given), *([] if clusters is None else [len(clusters)])]
    if len(set(lengths)) > 1:
        raise DataError("columns do not match", expected="the same length for all", got=" and ".join(map(str, lengths)))
    item_names, item = coded(items)
    labeler_names, labeler = coded(labelers)
    cluster_names, cluster = (item_names, item) if clusters is None else coded(clusters)
    item_cluster = np.zeros(len(item_names), dtype=np.int64)
    item_cluster[item] = cluster
    if bool((item_cluster[item] != cluster).any()):
        wrong = item_names[int(item[np.flatnonzero(item_cluster[item] != cluster)[0]])]
        raise DataError("an item is in two clusters", expected="one cluster for each item", got=f"item {wrong!r} in two")
    kept = np.flatnonzero(~np.isnan(given))
    kept = kept[last_of_each(item[kept] * max(len(labeler_names), 1) + labeler[kept])]
    scale, value = np.unique(given[kept], return_inverse=True)
    if len(scale) > MAX_VALUES:
        raise DataError("too many different values", expected=f"a scale of at most {MAX_VALUES} values", got=f"{len(scale)}")
    return Answers(
        labelers=labeler_names,
        values=scale.tolist(),
        num_items=len(item_names),
        num_clusters=len(cluster_names),
        item=item[kept],
        labeler=labeler[kept],
        value=value.astype(np.int64),
        item_cluster=item_cluster,
    )


def coded(labels: Labels) -> tuple[list[str], IntArray]:
    """The distinct labels in sorted order, as text, and each entry's index among them."""
    entries: Sequence[str] | Sequence[int] = labels.tolist() if isinstance(labels, np.ndarray) else labels
    names = sorted(set(entries))
    place = {name: i for i, name in enumerate(names)}
    return [str(name) for name in names], np.fromiter((place[entry] for entry in entries), dtype=np.int64, count=len(entries))


def last_of_each(keys: IntArray) -> IntArray:
    """Indices of the last occurrence of each key, in ascending order."""
    _, first_from_behind = np.unique(keys[::-1], return_index=True)
    return np.sort(len(keys) - 1 - first_from_behind).astype(np.int64)


def sums_within(group: IntArray, rows: FloatArray, num_groups: int) -> FloatArray:
    """(rows, columns) summed within each group, (groups, columns)."""
    columns = [np.bincount(group, weights=rows[:, c], minlength=num_groups) for c in range(rows.shape[1])]
    return np.stack(columns, axis=1).astype(np.float64) if columns else np.zeros((num_groups, 0))
