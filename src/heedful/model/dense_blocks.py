"""Attention over packed rows as a few dense blocks: sequences of similar length side by side, with padding masked."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from heedful.model.attention import AttentionBlock, BlockLayout
from heedful.model.fast.grid import on_grid

_LENGTH_GRID = 16
# Sequences are sorted by length. A block ends before they get shorter than half its longest, so about this share is padding.
_LARGEST_PADDING = 0.25
_SMALLEST_BLOCK = 16


def dense_blocks(
    positions: Tensor,
    prompt_start: np.ndarray,
    prompt_lengths: np.ndarray,
    start: np.ndarray,
    lengths: np.ndarray,
    group: np.ndarray,
) -> BlockLayout:
    """Blocks of prompts (or whole sequences) that see themselves, and blocks of responses that see their prompt too.

    positions: [tokens] each token's position in its own sequence. prompt_start, prompt_lengths: [groups] in tokens.
    start, lengths, group: [responses] of shared prompts; group is the index of each response's prompt.
    """
    output_index = np.zeros(len(positions), dtype=np.int64)
    blocks: list[AttentionBlock] = []
    offset = 0
    for members in _buckets(prompt_lengths):
        longest = _on_length_grid(int(prompt_lengths[members].max()))
        index, real = _ranges(prompt_start[members], prompt_lengths[members], longest)
        blocks.append(AttentionBlock(torch.from_numpy(index), torch.from_numpy(index), _causal(longest)))
        output_index[index[real]] = offset + np.flatnonzero(real)
        offset += real.size
    for members in _buckets(prompt_lengths[group] + lengths):
        longest = _on_length_grid(int(lengths[members].max()))
        longest_prompt = _on_length_grid(int(prompt_lengths[group[members]].max()))
        own, real = _ranges(start[members], lengths[members], longest)
        prompt, prompt_real = _ranges(prompt_start[group[members]], prompt_lengths[group[members]], longest_prompt)
        mask = torch.cat(
            [
                torch.from_numpy(prompt_real)[:, None, None, :].expand(-1, 1, longest, -1),
                _causal(longest).expand(len(own), 1, -1, -1),
            ],
            dim=-1,
        )
        keys = torch.from_numpy(np.concatenate([prompt, own], axis=1))
        blocks.append(AttentionBlock(torch.from_numpy(own), keys, mask))
        output_index[own[real]] = offset + np.flatnonzero(real)
        offset += real.size
    return BlockLayout(tuple(blocks), torch.from_numpy(output_index), positions)


def _causal(length: int) -> Tensor:
    """[1, 1, length, length]. It hides right padding too: no real query sees a key after itself."""
    return torch.ones(length, length, dtype=torch.bool).tril()[None, None]


def _on_length_grid(length: int) -> int:
    return -(-length // _LENGTH_GRID) * _LENGTH_GRID


def _ranges(start: np.ndarray, lengths: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Row positions of n ranges, 0 where padded, and a mask, True where real; both [n rounded up to the grid, longest]."""
    extra = on_grid(len(start)) - len(start)
    start, lengths = np.pad(start, (0, extra)), np.pad(lengths, (0, extra))
    offsets = np.arange(longest)
    real = offsets < lengths[:, None]
    return np.where(real, start[:, None] + offsets, 0).astype(np.int64), real


def _buckets(lengths: np.ndarray) -> list[np.ndarray]:
    """Indices of the sequences in each block. Similar lengths share a block, for little padding in few blocks."""
    order = np.argsort(-lengths, kind="stable")
    buckets: list[np.ndarray] = []
    first = 0
    for i in range(1, len(order) + 1):
        at_end = i == len(order)
        if at_end or (i - first >= _SMALLEST_BLOCK and lengths[order[i]] < (1 - 2 * _LARGEST_PADDING) * lengths[order[first]]):
            buckets.append(order[first:i])
            first = i
    return buckets
