"""Inner loops on a CPU, compiled once for this machine by the system's C++ compiler from the ``.cpp`` files beside this one.

Without a compiler, or if the compiled file cannot be loaded, :func:`usable` is False and torch's own operations do the work;
only speed is lost. Compiled files stay in the user's cache folder, one for each combination of source, compiler, options and
kind of processor.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from ctypes import c_float, c_int64, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

SOURCES = tuple(
    Path(__file__).with_name(f"{name}.cpp") for name in ("kernels", "packed_attention", "packed_product", "decoder", "fused")
)
_HEADERS = tuple(
    Path(__file__).with_name(f"{name}.h")
    for name in (
        "common",
        "activations",
        "dot_pairs",
        "panel_product",
        "paged_attention",
        "products",
        "tile_attention",
        "transpose",
    )
)
# The compiler may reorder sums to vectorise them, but the order is the same in every call.
_OPTIONS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fopenmp", "-march=native", "-fno-math-errno", "-fno-trapping-math")
_SUMS = ("-fno-signed-zeros", "-fassociative-math")
_X86 = ("-mprefer-vector-width=512",)
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_WIDEST_HEAD = 1_024  # as in kernels.cpp
_COMPILER_SECONDS = 300  # a minute and more on a loaded machine; without the library everything is slower
_PANEL = 32  # columns of a packed weight, as in panel_product.h
_ACTIVATIONS = ("none", "gelu", "gelu_tanh", "relu")  # likewise
_ATTEND = (
    *([c_int64] * 5),  # rows, key heads, queries per key head, head width, length of the cache
    *(c_void_p, c_int64),  # queries, their row stride
    *(c_void_p, c_void_p, c_int64),  # new keys, new values, their row stride
    *(c_void_p, c_void_p, c_void_p),  # key cache, value cache, positions
    *(c_int64, c_float, c_void_p),  # window (0: none), scaling, output
)
_ADD_NORM = (c_int64, c_int64, c_void_p, c_void_p, c_void_p, c_void_p, c_float, c_void_p)
_DRAW = (c_int64, c_int64, c_void_p, c_int64, c_void_p, c_void_p, c_void_p)
_TOKEN_STATISTICS = (c_int64, c_int64, c_void_p, c_float, c_void_p, c_void_p, c_void_p)
_PACKED_ATTENTION = (
    *([c_int64] * 4),  # groups, key heads, queries per key head, head width
    *([c_void_p] * 3),  # queries, keys, values
    *([c_int64] * 3),  # their row strides
    *([c_void_p] * 3),  # contexts, branches, first branches
    *(c_int64, c_float),  # window (0: none), scaling
)
_PACKED_PRODUCT = (
    *([c_int64] * 3),  # rows, inputs, outputs
    *(c_void_p, c_int64),  # rows, their stride
    *(c_void_p, c_void_p),  # weight, bias
    *(c_int64, c_void_p),  # activation, output
)
_SOFTMAX_LESS_TOKEN = (c_int64, c_int64, c_void_p, c_float, c_void_p)
# Sizes, then addresses in the order of fused.cpp.
_FUSED = {
    "rms_norm": (c_int64, c_int64, c_void_p, c_void_p, c_float, c_float, c_void_p, c_void_p),
    "rms_norm_backward": (c_int64, c_int64, c_void_p, c_void_p, c_void_p, c_float, c_void_p, c_void_p, c_void_p),
    "gated": (c_int64, c_int64, *[c_void_p] * 3),
    "gated_backward": (c_int64, c_int64, *[c_void_p] * 5),
    "rotate": (c_int64, c_int64, c_int64, c_void_p, c_int64, c_void_p, c_void_p, c_float, c_void_p),
}
_FUNCTIONS = {
    **{
        f"{name}_{kind}": arguments
        for name, arguments in (
            ("attend", _ATTEND),
            ("add_norm", _ADD_NORM),
            ("draw", _DRAW),
            ("packed_attention", (*_PACKED_ATTENTION, c_void_p)),  # output
            ("packed_attention_backward", (*_PACKED_ATTENTION, *[c_void_p] * 4)),  # output's, query's, key's, value's gradients
            *_FUSED.items(),
        )
        for kind in _NAMES.values()
    },
    "token_statistics_bfloat16": _TOKEN_STATISTICS,
    "softmax_less_token_bfloat16": _SOFTMAX_LESS_TOKEN,
}
# Missing if the processor lacks the instructions for them.
_SOME_FUNCTIONS = {f"packed_product_{kind}": _PACKED_PRODUCT for kind in _NAMES.values()}


class Ranges(NamedTuple):
    """Which rows see which. A group is a context (a prompt, or a whole sequence) and branches (responses) that see all of it.

    contexts: [groups, 4] int64: first row, length, and the first and last + 1 of the queries to compute, counted from the first
    row. branches: [branches, 4], the same. first_branch: [groups + 1] int64, where each group's branches begin and end. A
    context sees itself causally, and so does a branch. All tensors are contiguous.
    """

    contexts: Tensor
    branches: Tensor
    first_branch: Tensor


def usable(tensor: Tensor) -> bool:
    """Whether the compiled loops exist and support this tensor (on a CPU, in fp32 or bf16)."""
    return tensor.device.type == "cpu" and tensor.dtype in _NAMES and _library() is not None


def kind(tensor: Tensor) -> str:
    """The suffix of the functions for this type of number."""
    return _NAMES[tensor.dtype]


def function(name: str) -> Any:
    """A compiled function, or None if this processor does not support it."""
    return getattr(_loaded(), name, None)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cache: tuple[int, int],
    length: int,
    positions: Tensor,
    scaling: float,
    window: int | None = None,
) -> Tensor:
    """Add one new token per row to the cache, at its position; it attends to all tokens up to itself, or within the window.

    query: [rows, heads, head width]; key, value: [rows, key heads, head width]. cache: addresses of the keys and of the values,
    each [rows or more, key heads, length, head width] and contiguous. positions: [rows] int64, each below length. query, key
    and value may end with filler rows, whose outputs are 0. window: how many keys a token sees, including its own (None: all).
    Returns a tensor like query.
    """
    query, key, value = dense_rows(query), dense_rows(key), dense_rows(value)
    if key.stride(0) != value.stride(0):
        key, value = key.contiguous(), value.contiguous()
    rows, (_, key_heads, width) = len(positions), key.shape
    output = query.new_empty(query.shape)
    if rows < len(output):
        output[rows:] = 0
    getattr(_loaded(), f"attend_{_NAMES[query.dtype]}")(
        *(rows, key_heads, query.shape[1] // key_heads, width, length),
        *(query.data_ptr(), query.stride(0)),
        *(key.data_ptr(), value.data_ptr(), key.stride(0)),
        *(cache[0], cache[1], positions.data_ptr()),
        *(window or 0, scaling, output.data_ptr()),
    )
    return output


def fits(width: int) -> bool:
    """Whether :func:`attend` supports heads of this width."""
    return width <= _WIDEST_HEAD


def add_norm(hidden: Tensor, addend: Tensor | None, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Add ``addend``, if there is one, to ``hidden`` [rows, width] in place, and return the layer norm of the sum."""
    output = torch.empty_like(hidden)
    getattr(_loaded(), f"add_norm_{_NAMES[hidden.dtype]}")(
        *(hidden.shape[0], hidden.shape[1], hidden.data_ptr(), None if addend is None else addend.data_ptr()),
        *(weight.data_ptr(), bias.data_ptr(), epsilon, output.data_ptr()),
    )
    return output


def packed_attention(query: Tensor, key: Tensor, value: Tensor, ranges: Ranges, window: int | None, scaling: float) -> Tensor:
    """Attention over packed rows, [rows, heads, head width]; 0 for rows whose queries no range asks for.

    query: [rows, heads, head width]; key, value: [rows, key heads, head width]; each as :func:`dense_rows` returns it.
    window: how many keys a query sees, including its own (None: all).
    """
    output = query.new_zeros(query.shape)
    _packed("packed_attention", [query, key, value], ranges, window, scaling, [output])
    return output


def packed_attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, ranges: Ranges, window: int | None, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, given the output's gradient; 0 for rows in no range."""
    gradients = [tensor.new_zeros(tensor.shape) for tensor in (query, key, value)]
    outputs = [gradient.contiguous(), *gradients]
    _packed("packed_attention_backward", [query, key, value], ranges, window, scaling, outputs)
    return gradients[0], gradients[1], gradients[2]


def _packed(name: str, inputs: list[Tensor], ranges: Ranges, window: int | None, scaling: float, outputs: list[Tensor]) -> None:
    query, key, _ = inputs
    groups, key_heads, width = len(ranges.contexts), key.shape[1], key.shape[2]
    getattr(_loaded(), f"{name}_{_NAMES[query.dtype]}")(
        *(groups, key_heads, query.shape[1] // key_heads, width),
        *(tensor.data_ptr() for tensor in inputs),
        *(tensor.stride(0) for tensor in inputs),
        *(tensor.data_ptr() for tensor in (ranges.contexts, ranges.branches, ranges.first_branch)),
        *(window or 0, scaling),
        *(tensor.data_ptr() for tensor in outputs),
    )


def token_statistics(logits: Tensor, tokens: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Log-prob of each row's token under softmax(scale * logits), and the row's entropy; nats, float32 [rows].

    logits: bf16 [rows, vocabulary], contiguous. tokens: int64 [rows]. scale: above 0.
    """
    rows, vocabulary = logits.shape
    logprobs, entropies = torch.empty(rows), torch.empty(rows)
    tokens = tokens.contiguous()
    _loaded().token_statistics_bfloat16(
        *(rows, vocabulary, logits.data_ptr(), scale, tokens.data_ptr(), logprobs.data_ptr(), entropies.data_ptr())
    )
    return logprobs, entropies


def softmax_less_token_(logits: Tensor, tokens: Tensor, scale: float) -> Tensor:
    """Replace logits [rows, vocabulary] (bf16, contiguous) by softmax(scale * logits) - onehot(token), in place."""
    tokens = tokens.contiguous()
    _loaded().softmax_less_token_bfloat16(*logits.shape, logits.data_ptr(), scale, tokens.data_ptr())
    return logits


def draw(logits: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The token at which each row's cumulative distribution exceeds its number, and the token's log-prob in nats.

    logits: [rows, vocabulary]; numbers: [rows] float64 in [0, 1). Returns [rows] int64 and [rows] float32.
    """
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    numbers = numbers.contiguous()
    rows, vocabulary = logits.shape
    tokens, logprobs = torch.empty(rows, dtype=torch.int64), torch.empty(rows)
    getattr(_loaded(), f"draw_{_NAMES[logits.dtype]}")(
        *(rows, vocabulary, logits.data_ptr(), logits.stride(0)),
        *(numbers.data_ptr(), tokens.data_ptr(), logprobs.data_ptr()),
    )
    return tokens, logprobs


def can_pack(weight: Tensor) -> bool:
    """Whether :func:`packed_product` can multiply by this weight [out, in] on this processor."""
    if not usable(weight) or weight.shape[1] % _together(weight):
        return False
    return hasattr(_loaded(), f"packed_product_{_NAMES[weight.dtype]}")


def pack_weight(weight: Tensor) -> Tensor:
    """Pack a weight [out, in] into panels of 32 outputs: [panels, in / n, 32, n], where n inputs are multiplied at once."""
    filler = -len(weight) % _PANEL
    whole = torch.nn.functional.pad(weight, (0, 0, 0, filler)) if filler else weight
    together = _together(weight)
    return whole.view(-1, _PANEL, weight.shape[1] // together, together).transpose(1, 2).contiguous()


def packed_product(rows: Tensor, weight: Tensor, outputs: int, bias: Tensor | None, activation: str) -> Tensor:
    """activation(rows W' + b), [rows, in] -> [rows, outputs]. weight: the result of :func:`pack_weight`.

    activation: none, gelu, gelu_tanh or relu, applied to the fp32 sum. A row's bits do not depend on the number of rows.
    """
    if rows.stride(1) != 1:
        rows = rows.contiguous()
    output = rows.new_empty(len(rows), outputs)
    getattr(_loaded(), f"packed_product_{_NAMES[rows.dtype]}")(
        *(len(rows), rows.shape[1], outputs, rows.data_ptr(), rows.stride(0), weight.data_ptr()),
        *(None if bias is None else bias.data_ptr(), _ACTIVATIONS.index(activation), output.data_ptr()),
    )
    return output


def _together(weight: Tensor) -> int:
    """How many inputs fit into 32 bits; that many are multiplied at once."""
    return 4 // weight.itemsize


def dense_rows(tensor: Tensor) -> Tensor:
    """The tensor, copied unless each row is contiguous (there may be gaps between rows)."""
    return tensor if tensor.stride(2) == 1 and tensor.stride(1) == tensor.shape[2] else tensor.contiguous()


def _loaded() -> ctypes.CDLL:
    library = _library()
    assert library is not None, "call usable() first"
    return library


@functools.cache
def _library() -> ctypes.CDLL | None:
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        return None
    try:
        library = ctypes.CDLL(str(_compiled(compiler)))
        some = {name: arguments for name, arguments in _SOME_FUNCTIONS.items() if hasattr(library, name)}
        for name, arguments in (_FUNCTIONS | some).items():
            getattr(library, name).argtypes = arguments
            getattr(library, name).restype = None
    except (OSError, AttributeError, subprocess.SubprocessError):
        return None
    return library


def _compiled(compiler: str) -> Path:
    """The shared library for this machine, compiled if it does not exist yet. Raises OSError, SubprocessError."""
    options = [*_OPTIONS, *_SUMS, *(_X86 if platform.machine() == "x86_64" else ())]
    texts = [file.read_text(encoding="utf-8") for file in (*SOURCES, *_HEADERS)]
    identity = "\0".join([compiler, *options, _processor(), *texts])
    folder = _cache_folder() or Path(tempfile.mkdtemp(prefix="heedful-"))  # without a cache, every process compiles
    file = folder / f"kernels-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    if not file.is_file():
        handle, aside = tempfile.mkstemp(dir=folder, suffix=".so")
        os.close(handle)
        try:
            command = [compiler, *options, *map(str, SOURCES), "-o", aside]
            subprocess.run(command, check=True, capture_output=True, timeout=_COMPILER_SECONDS)
            Path(aside).replace(file)  # atomic: several processes may compile at once
        finally:
            Path(aside).unlink(missing_ok=True)
    return file


def _cache_folder() -> Path | None:
    """The user's cache folder, or None if it cannot be written to."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heedful"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home folder
        return None
    return folder if os.access(folder, os.W_OK) else None


def _processor() -> str:
    """A description of everything that the compiler's ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
