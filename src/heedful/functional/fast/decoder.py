"""A decoder's pass through all its layers, in compiled loops on a CPU (``decoder.cpp``), with a paged key-value cache.

The decoder has rotary positions, root-mean-square norms and gated feed-forward blocks. :mod:`heedful.model.fast.rotary_decoder`
makes one from a transformers model.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import Structure, byref, c_float, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from heedful.functional.fast import kernels

PAGE = 32  # tokens, as in paged_attention.h
ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu")  # from 1 on, as in activations.h
_COLUMNS = 32  # of a panel, as in panel_product.h
_HALF = 16
_HUGE_PAGE = 2**21
_FIRST_POSITIONS = 512  # of the rotary tables; they grow
# With fewer multiplications, several threads, which wait for each other between products, are slower than one.
_WORTH_THREADS = 2**21


class Weight(NamedTuple):
    """A linear layer: weight [out, in], bias [out] or None."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """One layer. Norms multiply by their weight [width]; for a norm that multiplies by 1 + weight, give that sum.

    query_norm, key_norm: [head width], for each head. norm_after_attention, norm_after_mlp: for what the branch adds to the
    residual stream. rotary: index of the layer's rotary table. window: how many tokens a token sees, including itself (None:
    all).
    """

    queries: Weight
    keys: Weight
    values: Weight
    attention_output: Weight
    gate: Weight
    up: Weight
    contract: Weight
    norm_before_attention: Tensor
    norm_before_mlp: Tensor
    query_norm: Tensor | None
    key_norm: Tensor | None
    norm_after_attention: Tensor | None
    norm_after_mlp: Tensor | None
    rotary: int
    window: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderWeights:
    """A whole decoder.

    rotary: for each kind of rotation, a function that returns cosines and sines of the positions 0, 1, ..., n - 1: [n, head
    width] fp32, each row the cosines and then the sines of half a head. scaling: factor of the attention's scores.
    """

    embedding: Tensor
    embedding_scale: float
    layers: Sequence[LayerWeights]
    final_norm: Tensor
    head: Tensor
    heads: int
    key_heads: int
    activation: str
    epsilon: float
    scaling: float
    rotary: Sequence[Callable[[int], Tensor]]


class _Linear(Structure):
    _fields_ = (("weight", c_void_p), ("bias", c_void_p), ("inputs", c_int64), ("panels", c_int64))


_NORMS = (
    *("norm_before_attention", "query_norm", "key_norm", "norm_after_attention"),
    *("norm_before_mlp", "norm_after_mlp"),
)
_PRODUCTS = ("mixed", "attention_output", "gated", "contract")


class _Layer(Structure):
    _fields_ = (
        *((name, c_void_p) for name in _NORMS),
        ("rotary", c_void_p),
        *((name, _Linear) for name in _PRODUCTS),
        ("window", c_int64),
    )


class _Decoder(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("layers", "width", "heads", "key_heads", "head_width", "key_column", "value_column")),
        ("activation", c_int64),
        *((name, c_float) for name in ("epsilon", "embedding_scale", "scaling")),
        ("embedding", c_void_p),
        ("final_norm", c_void_p),
        ("head", _Linear),
        ("layer", c_void_p),
    )


class _Batch(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("rows", "threads", "pages_per_sequence", "wanted")),
        *((name, c_void_p) for name in ("tokens", "positions", "sequences", "pages", "wanted_rows", "logits")),
    )


def can_decode(weight: Tensor) -> bool:
    """Whether the compiled pass supports weights of this type on this processor."""
    return kernels.usable(weight) and kernels.function(f"decode_{kernels.kind(weight)}") is not None


def large_memory(size: int) -> Tensor:
    """New memory [size] uint8, in huge pages if the system has them: looking up the addresses of small ones takes time."""
    memory = torch.empty(size, dtype=torch.uint8)
    kernels.function("prefer_huge_pages")(c_void_p(memory.data_ptr()), c_int64(size))
    return memory


class Decoder:
    """A decoder's weights, packed in the order in which a pass reads them, ready to run."""

    def __init__(self, weights: DecoderWeights) -> None:
        first = weights.layers[0]
        self._weights = weights
        self._dtype, self._kind = weights.embedding.dtype, kernels.kind(weights.embedding)
        self.vocabulary, self.width = weights.head.shape
        self.head_width = len(first.queries.weight) // weights.heads
        self._kept: list[Tensor] = []  # keeps alive what the structures below point to
        self._layers = (_Layer * len(weights.layers))()
        self._decode = kernels.function(f"decode_{self._kind}")
        self._decode.argtypes, self._decode.restype = (c_void_p, c_void_p, c_void_p), c_int64
        key_column = _whole(len(first.queries.weight), _HALF)
        value_column = key_column + _whole(len(first.keys.weight), _HALF)
        self._decoder = _Decoder(
            layers=len(weights.layers),
            width=self.width,
            heads=weights.heads,
            key_heads=weights.key_heads,
            head_width=self.head_width,
            key_column=key_column,
            value_column=value_column,
            activation=ACTIVATIONS.index(weights.activation) + 1,
            epsilon=weights.epsilon,
            embedding_scale=weights.embedding_scale,
            scaling=weights.scaling,
            embedding=self._keep(weights.embedding.contiguous()),
            final_norm=self._norm(weights.final_norm),
            layer=ctypes.addressof(self._layers),
        )
        self._pack()
        self._positions = 0
        self._turn(_FIRST_POSITIONS)
        self._memory = torch.empty(0, dtype=torch.uint8)
        page_bytes: Any = kernels.function(f"page_bytes_{self._kind}")
        page_bytes.argtypes, page_bytes.restype = (c_int64, c_int64, c_int64), c_int64
        self.page_bytes = int(page_bytes(len(weights.layers), weights.key_heads, self.head_width))

    def __call__(
        self, tokens: Tensor, positions: Tensor, sequences: Tensor, pages: Tensor, wanted: Tensor | None = None
    ) -> Tensor:
        """Compute new tokens, put their keys and values into the pages, and return logits [wanted rows, vocabulary].

        tokens, positions, sequences: [rows] int64. Each sequence's rows are consecutive, in the order of their positions.
        pages: [sequences, most pages] int64, the address of each page (``page_bytes`` long, for 32 tokens). wanted: the rows,
        in ascending order, whose logits are returned (None: all).
        """
        rows, (_, most_pages) = len(tokens), pages.shape
        if wanted is None:
            wanted = torch.arange(rows)
        if most_pages * PAGE > self._positions:
            self._turn(max(most_pages * PAGE, 2 * self._positions))
        logits = torch.empty(len(wanted), self._decoder.head.panels * _COLUMNS, dtype=self._dtype)
        inputs = [tensor.contiguous() for tensor in (tokens, positions, sequences, pages, wanted)]
        threads = torch.get_num_threads() if rows * self._numbers >= _WORTH_THREADS else 1
        batch = _Batch(rows, threads, most_pages, len(wanted), *(tensor.data_ptr() for tensor in inputs), logits.data_ptr())
        needed = self._decode(byref(self._decoder), byref(batch), None)
        if needed > len(self._memory):
            self._memory = torch.empty(needed + needed // 4, dtype=torch.uint8)
        self._decode(byref(self._decoder), byref(batch), self._memory.data_ptr())
        return logits[:, : self.vocabulary]

    def _pack(self) -> None:
        """Pack all weights into one block of memory."""
        products = [product for layer in self._weights.layers for product in _products(layer)]
        products.append(([Weight(self._weights.head, None)], False))
        sizes = [_panels(*product) * _COLUMNS * product[0][0].weight.shape[1] * self._dtype.itemsize for product in products]
        memory = large_memory(sum(sizes) + _HUGE_PAGE)
        self._numbers = sum(sizes) // self._dtype.itemsize
        self._kept.append(memory)
        place = _whole(memory.data_ptr(), _HUGE_PAGE)
        linear: list[_Linear] = []
        for (parts, gated), size in zip(products, sizes, strict=True):
            linear.append(self._linear(parts, gated, place))
            place += size
        self._decoder.head = linear.pop()
        for i, (to, layer) in enumerate(zip(self._layers, self._weights.layers, strict=True)):
            for j, name in enumerate(_PRODUCTS):
                setattr(to, name, linear[len(_PRODUCTS) * i + j])
            for name in _NORMS:
                setattr(to, name, self._norm(getattr(layer, name)))
            to.window = layer.window or 0

    def _linear(self, parts: Sequence[Weight], gated: bool, place: int) -> _Linear:
        """Pack the outputs of ``parts`` one after another; if gated, 16 of the first and 16 of the second into each panel."""
        pack = kernels.function(f"pack_{self._kind}")
        pack.argtypes, pack.restype = (*[c_int64] * 3, c_void_p, c_void_p, c_int64, c_int64), None
        panels, inputs = _panels(parts, gated), parts[0].weight.shape[1]
        bias = torch.zeros(2 * panels, _HALF)
        half = 0
        for i, (weight, added) in enumerate(parts):
            groups = -(-len(weight) // _HALF)
            if not gated and i == len(parts) - 1:
                groups = 2 * panels - half
            first, step = (i, 2) if gated else (half, 1)
            pack(len(weight), groups, inputs, weight.contiguous().data_ptr(), place, first, step)
            if added is not None:
                bias[first : first + groups * step : step] = F.pad(added.float(), (0, groups * _HALF - len(added))).view(
                    -1, _HALF
                )
            half += groups
        some = any(part.bias is not None for part in parts)
        return _Linear(place, self._keep(bias) if some else None, inputs, panels)

    def _turn(self, positions: int) -> None:
        """Compute the rotary tables for this many positions."""
        self._tables = [table(positions).contiguous() for table in self._weights.rotary]
        for to, layer in zip(self._layers, self._weights.layers, strict=True):
            to.rotary = self._tables[layer.rotary].data_ptr()
        self._positions = positions

    def _norm(self, weight: Tensor | None) -> int | None:
        return None if weight is None else self._keep(F.pad(weight.float(), (0, -len(weight) % _COLUMNS)))

    def _keep(self, tensor: Tensor) -> int:
        self._kept.append(tensor)
        return tensor.data_ptr()


def _products(layer: LayerWeights) -> list[tuple[list[Weight], bool]]:
    """For each product, its weights and whether it is the gated one, in the order of ``_PRODUCTS``."""
    return [
        ([layer.queries, layer.keys, layer.values], False),
        ([layer.attention_output], False),
        ([layer.gate, layer.up], True),
        ([layer.contract], False),
    ]


def _panels(parts: Sequence[Weight], gated: bool) -> int:
    halves = sum(-(-len(part.weight) // _HALF) for part in parts)
    return halves // 2 if gated else -(-halves // 2)


def _whole(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
