"""Compute norms, gated feed-forward blocks and rotary positions of transformers' classes in one pass each on a CPU.

A class is replaced if its code equals that of Llama's (or Gemma's) class, whatever the family is called, because then it
computes the same. Other classes, devices and types of number run as they are. Weights, their names and saved files do not
change.
"""

from __future__ import annotations

import functools
import sys
from types import CodeType, FunctionType
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from heedful.functional.fast import fused

_ROTATE = "apply_rotary_pos_emb"
_GATES = {"silu": "silu", "swish": "silu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


def fuse(model: PreTrainedModel) -> None:
    """Let the model's norms, gates and rotations run in compiled loops, in place. Classes with other code do not change."""
    for module in model.modules():
        module.__class__ = _fused_class(type(module))


def unfuse(model: PreTrainedModel) -> None:
    """Give every module its own class back, in place."""
    for module in model.modules():
        if _is_fused(type(module)):
            module.__class__ = type(module).__bases__[0]


def _is_fused(kind: type[nn.Module]) -> bool:
    return _fused_class(kind.__bases__[0]) is kind


@functools.cache
def _fused_class(kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass of the same name with the fused computation, or the class itself if its code is something else."""
    forward = _forward(kind)
    if forward is None:
        return kind
    named = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    return cast(type[nn.Module], type(kind.__name__, (kind,), {"forward": forward, **named}))


def _forward(kind: type[nn.Module]) -> Any:
    plain = kind.forward
    if not isinstance(plain, FunctionType):
        return None
    if _same(plain, LlamaRMSNorm.forward):
        return lambda self, hidden: _norm(self, hidden, plain, self.variance_epsilon, 0.0)
    if _same(plain, GemmaRMSNorm.forward) and _same(cast(Any, kind)._norm, GemmaRMSNorm._norm):
        return lambda self, hidden: _norm(self, hidden, plain, self.eps, 1.0)
    if _same(plain, LlamaMLP.forward):
        return lambda self, hidden: _feed_forward(self, hidden, plain)
    rotate = getattr(sys.modules[kind.__module__], _ROTATE, None)
    if _ROTATE in plain.__code__.co_names and _same(rotate, modeling_llama.apply_rotary_pos_emb):
        return _with_rotation(plain)
    return None


def _same(one: Any, other: Any) -> bool:
    """Whether two functions run the same code. Strings, such as docstrings, are not compared."""
    return isinstance(one, FunctionType) and _code(one.__code__) == _code(cast(FunctionType, other).__code__)


def _code(code: CodeType) -> tuple[Any, ...]:
    numbers = tuple(c for c in code.co_consts if not isinstance(c, str))
    return code.co_code, code.co_names, code.co_varnames, numbers


def _norm(module: Any, hidden: Tensor, plain: FunctionType, epsilon: float, offset: float) -> Tensor:
    if not fused.usable(hidden, module.weight):
        return plain(module, hidden)
    return fused.rms_norm(hidden, module.weight, epsilon, offset)


def _feed_forward(module: Any, hidden: Tensor, plain: FunctionType) -> Tensor:
    activation = _gate(type(module.act_fn))
    if activation is None or not fused.usable(hidden):
        return plain(module, hidden)
    gate, up = module.gate_proj(hidden), module.up_proj(hidden)
    return module.down_proj(fused.gated(gate, up, activation) if fused.usable(gate, up) else module.act_fn(gate) * up)


@functools.cache
def _gate(activation: type[nn.Module]) -> str | None:
    return next((ours for name, ours in _GATES.items() if type(ACT2FN[name]) is activation), None)


def _with_rotation(plain: FunctionType) -> FunctionType:
    """The attention's forward pass, with our rotation in place of the function in its module."""
    names = plain.__globals__ | {_ROTATE: functools.partial(_rotated, plain.__globals__[_ROTATE])}
    forward = FunctionType(plain.__code__, names, plain.__name__, plain.__defaults__, plain.__closure__)
    forward.__kwdefaults__ = plain.__kwdefaults__
    return forward


def _rotated(
    plain: FunctionType, query: Tensor, key: Tensor, cosines: Tensor, sines: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """query, key: [1, heads, tokens, width]; cosines, sines: [1, tokens, width]."""
    one_row = query.dim() == 4 and len(query) == len(key) == len(cosines) == 1 and unsqueeze_dim == 1
    if not one_row or cosines.shape[-1] != query.shape[-1] or not fused.usable(query, key, cosines, sines):
        return plain(query, key, cosines, sines, unsqueeze_dim)
    turned = [fused.rotated(rows.squeeze(0).transpose(0, 1), cosines[0], sines[0]) for rows in (query, key)]
    return turned[0].transpose(0, 1).unsqueeze(0), turned[1].transpose(0, 1).unsqueeze(0)
