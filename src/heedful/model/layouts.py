"""Padding-free batches: many sequences in one row, and a prompt computed once for its K responses.

Both give the same hidden states as one forward pass per sequence (tests/model/test_layouts.py), and neither computes padding
outside attention. A prompt of length P with K responses of length R costs P + K*R tokens instead of K*(P + R).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from heedful.model.attention import BlockLayout
from heedful.model.fast.grid import on_grid
from heedful.model.fast.last_layer import rows_to_read
from heedful.model.fast.ranges import RangesLayout


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One row of tokens and everything needed to read predictions from it.

    tokens, positions: [tokens] token ids, and each token's position in its own sequence (the model's position ids).
        Filler tokens at the end of the row are never read.
    layout: which tokens attend to which.
    predict_from: [targets] index in the row of the token whose hidden state predicts the target.
    targets: [targets] token ids of all response tokens, one sequence after another.
    row, column: [targets] the sequence a target belongs to, and its place in that sequence's response.
    last: [sequences] index in the row of each sequence's last token, where the reward is read.
    lengths: [sequences] number of response tokens.
    group: [sequences] index of the prompt that the sequence answers (0..sequences-1 if prompts are not shared).
    """

    tokens: Tensor
    positions: Tensor
    layout: RangesLayout | BlockLayout
    predict_from: Tensor
    targets: Tensor
    row: Tensor
    column: Tensor
    last: Tensor
    lengths: Tensor
    group: Tensor

    @property
    def num_sequences(self) -> int:
        """Number of responses in the batch."""
        return self.last.shape[0]

    def to(self, device: torch.device | str) -> PackedBatch:
        """The batch with all tensors on a device; returns itself if they are already there."""
        if self.tokens.device == torch.device(device):
            return self
        moved = {field.name: getattr(self, field.name).to(device) for field in fields(self)}
        return PackedBatch(**moved)

    def pad(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """[targets] -> right-padded [sequences, longest response]."""
        padded = values.new_full((self.num_sequences, int(self.lengths.max())), fill)
        return padded.index_put((self.row, self.column), values)

    def mask(self) -> Tensor:
        """[sequences, longest response], True where there is a response token."""
        longest = int(self.lengths.max())
        return torch.arange(longest, device=self.lengths.device) < self.lengths[:, None]


def pack(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], *, size: Callable[[int], int] = on_grid
) -> PackedBatch:
    """Pack each (prompt, response) as one sequence of a single row; a prompt that occurs twice is computed twice.

    size: rounds up the number of tokens in the row.
    Raises ValueError if a prompt or a response is empty. SPEC does not say what an empty response means; Heedful's training
    loops append end-of-text, so theirs are never empty.
    """
    return pack_shared(prompts, [[response] for response in responses], size=size)


def pack_documents(documents: Sequence[Sequence[int]]) -> PackedBatch:
    """Language modelling: every token except a document's first is a target.

    Raises ValueError if a document has fewer than two tokens.
    """
    return pack([document[:1] for document in documents], [document[1:] for document in documents])


def pack_shared(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[Sequence[int]]], *, size: Callable[[int], int] = on_grid
) -> PackedBatch:
    """Pack each prompt once, followed by its K responses, which see the prompt and themselves but not each other (SPEC 3.3).

    prompts: [groups] token ids. responses: [groups][K of that group] token ids. size: rounds up the number of tokens in the
    row; filler tokens make up the difference.
    Raises ValueError if the numbers of prompts and lists differ, or if a prompt, a list or a response is empty.
    """
    if not prompts or len(prompts) != len(responses):
        raise ValueError(
            f"expected as many lists of responses as prompts, at least one; got {len(responses)} and {len(prompts)}"
        )
    prompt_lengths = np.array([len(prompt) for prompt in prompts])
    counts = np.array([len(group) for group in responses])
    flat = [response for group in responses for response in group]
    lengths = np.array([len(response) for response in flat])
    if prompt_lengths.min() < 1 or counts.min() < 1 or lengths.min() < 1:
        raise ValueError("a prompt, a list of responses or a response is empty")

    group = np.repeat(np.arange(len(prompts)), counts)
    # Row order: prompt 0, its responses, prompt 1, its responses ...
    group_sizes = prompt_lengths + np.bincount(group, weights=lengths, minlength=len(prompts)).astype(np.int64)
    prompt_start = np.cumsum(group_sizes) - group_sizes
    before = np.cumsum(lengths) - lengths  # response tokens before each response, over the whole batch
    first_of_group = np.cumsum(counts) - counts
    start = prompt_start[group] + prompt_lengths[group] + before - before[first_of_group][group]
    last = start + lengths - 1

    tokens = np.concatenate([np.concatenate([prompt, *group_]) for prompt, group_ in zip(prompts, responses, strict=True)])
    row = np.repeat(np.arange(len(flat)), lengths)
    column = np.arange(int(lengths.sum())) - before[row]
    target_index = start[row] + column
    prompt_row = np.repeat(np.arange(len(prompts)), prompt_lengths)
    prompt_column = np.arange(int(prompt_lengths.sum())) - (np.cumsum(prompt_lengths) - prompt_lengths)[prompt_row]
    positions = np.empty(len(tokens), dtype=np.int64)
    positions[prompt_start[prompt_row] + prompt_column] = prompt_column
    positions[target_index] = prompt_lengths[group[row]] + column
    predict_from = np.where(column == 0, (prompt_start + prompt_lengths - 1)[group[row]], target_index - 1)

    filler = np.zeros(size(len(tokens)) - len(tokens), dtype=np.int64)
    all_positions = torch.from_numpy(np.concatenate([positions, filler]))
    if counts.max() == 1:  # nothing to share: prompt and response are one contiguous causal sequence
        layout = RangesLayout(all_positions, prompt_start, group_sizes)
    else:
        layout = RangesLayout(all_positions, prompt_start, prompt_lengths, start, lengths, group)
    return PackedBatch(
        tokens=torch.from_numpy(np.concatenate([tokens.astype(np.int64), filler])),
        positions=all_positions,
        layout=layout,
        predict_from=torch.from_numpy(predict_from),
        targets=torch.from_numpy(tokens[target_index].astype(np.int64)),
        row=torch.from_numpy(row),
        column=torch.from_numpy(column),
        last=torch.from_numpy(last),
        lengths=torch.from_numpy(lengths),
        group=torch.from_numpy(group),
    )


def packed_hidden(model: PreTrainedModel, batch: PackedBatch, places: Tensor | None = None) -> Tensor:
    """Final hidden states of a row, [tokens, width], from any model that uses heedful attention.

    places: [n] indices in the row (``batch.predict_from``, ``batch.last``). If given, only their hidden states are returned,
    [n, width], and the last layer skips most of the others (:mod:`heedful.model.fast.last_layer`).
    """
    layout = batch.layout
    if places is not None and (rows := rows_to_read(places, len(batch.tokens))) is not None:
        layout = layout.reading(rows)
    # The body of a sharded model gathers its weights before it runs (training/sharding.py).
    body = vars(model).get("heedful_sharded_body", model.base_model)
    output = body(input_ids=batch.tokens[None], position_ids=batch.positions[None], use_cache=False, layout=layout)
    hidden = output.last_hidden_state[0]
    return hidden if places is None else hidden.index_select(0, places)
