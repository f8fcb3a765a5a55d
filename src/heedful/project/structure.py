"""Build a frozen dataclass from a mapping (a JSON object, a TOML table), strictly: nothing is coerced, nothing is ignored."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cattrs import ClassValidationError, Converter, ForbiddenExtraKeysError
from cattrs.strategies import configure_union_passthrough

from heedful.errors import HeedfulError, UserError

Built = TypeVar("Built")

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What would control a terminal, stay invisible or break the output: control characters, direction overrides, surrogates."""


def from_mapping(cls: type[Built], mapping: object, *, what: str, where: str | Path | None, error: type[UserError]) -> Built:
    """Build ``cls`` from ``mapping``; ``what`` names the thing for the reader ("the section [ppo]", "a ranking").

    Raises ``error`` for an unknown key (naming the nearest known one), a missing key or a value of the wrong type; an error
    that the class itself raises (a value out of range) keeps its type and gains ``where``.
    """
    try:
        if not isinstance(mapping, Mapping):
            raise error(f"{what} cannot be read", expected="a table of keys and values", got=shown(mapping), where=where)
        return _converter().structure(mapping, cls)
    except ClassValidationError as problem:
        raise _explained(problem, cls, mapping, "", what, where, error) from None


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` was probably meant to be, or None."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def printable(text: str) -> str:
    """The text with control characters (other than newline and tab) and lone surrogates as escapes, such as ``\\x1b``."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def shown(value: object) -> str:
    """A value and its type, cut to a length that fits a message."""
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"


@cache
def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True)
    # cattrs coerces by default (int("3"), tuple("abc")): a label or a learning rate must be what it says it is.
    for scalar in (str, bool, int):
        converter.register_structure_hook(scalar, _exactly(scalar))
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook(Path, lambda value, _: Path(_exactly(str)(value, str)))
    configure_union_passthrough(str | bool | int | float | None, converter)
    converter.register_structure_hook_func(lambda t: get_origin(t) in (tuple, list), lambda v, t: _sequence(converter, v, t))
    converter.register_structure_hook_func(_is_named_tuple, lambda value, t: _named_tuple(converter, value, t))
    converter.register_structure_hook_func(_is_mapping_type, lambda value, t: _mapping(converter, value, t))
    return converter


def _exactly(scalar: type) -> Any:
    def structure(value: object, _: object) -> object:
        if type(value) is not scalar:  # bool is a subclass of int: isinstance would let True pass for 1
            raise TypeError(f"not {scalar.__name__}")
        return value

    return structure


def _number(value: object, _: object) -> float:
    if type(value) not in (int, float):
        raise TypeError("not a number")
    return float(value)  # type: ignore[arg-type]


def _sequence(converter: Converter, value: object, kind: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        raise TypeError("not a list")
    inner = get_args(kind)
    if get_origin(kind) is tuple and not (len(inner) == 2 and inner[1] is Ellipsis):
        if len(inner) != len(value):
            raise TypeError(f"not {len(inner)} values")
        return tuple(converter.structure(item, of) for item, of in zip(value, inner, strict=True))
    items = (converter.structure(item, inner[0]) for item in value)
    return tuple(items) if get_origin(kind) is tuple else list(items)


def _is_named_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def _named_tuple(converter: Converter, value: object, kind: Any) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping) or set(value) != set(kind._fields):
        raise TypeError(f"not an object with {' and '.join(kind._fields)}")
    hints = get_type_hints(kind)
    return kind(**{name: converter.structure(value[name], hints[name]) for name in kind._fields})


def _is_mapping_type(kind: Any) -> bool:
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _mapping(converter: Converter, value: object, kind: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError("not a mapping")
    of = get_args(kind)[1]
    return {str(key): item if of is Any else converter.structure(item, of) for key, item in value.items()}


def _explained(
    problem: ClassValidationError,
    cls: Any,
    mapping: Any,
    path: str,
    what: str,
    where: str | Path | None,
    error: type[UserError],
) -> HeedfulError:
    """The first problem in words: unknown keys before missing ones before wrong types."""
    with_field, plain = problem.group_exceptions()
    for exception in plain:
        if isinstance(exception, ForbiddenExtraKeysError):
            return _unknown_key(sorted(exception.extra_fields)[0], exception.cl, path, what, where, error)
    for exception, note in with_field:
        if isinstance(exception, KeyError) and note.name not in mapping:
            return error(
                f"{what} lacks {path + note.name!r}", expected=_type_in_words(note.type), got="no such key", where=where
            )
    for exception, note in with_field:
        value = mapping[note.name]
        if isinstance(exception, ClassValidationError) and isinstance(value, Mapping):
            return _explained(exception, note.type, value, f"{path}{note.name}.", what, where, error)
        expected, message = _type_in_words(note.type), f"{path + note.name!r} of {what} has the wrong type"
        return error(message, expected=expected, got=shown(value), where=where)
    for exception in plain:
        if isinstance(exception, HeedfulError):
            return type(exception)(
                exception.message,
                expected=exception.expected,
                got=exception.got,
                where=exception.where or where,
                next_step=exception.next_step,
            )
    return error(f"{what} cannot be read", got="; ".join(map(str, plain)), where=where)


def _unknown_key(key: str, cls: Any, path: str, what: str, where: str | Path | None, error: type[UserError]) -> HeedfulError:
    known = [field.name for field in fields(cls)]
    meant = nearest(key, known)
    return error(
        f"{path + key!r} is not a key of {what}",
        expected=", ".join(known),
        got=repr(key),
        where=where,
        next_step=f"did you mean {meant!r}?" if meant else f"remove {key!r}",
    )


def _type_in_words(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    if origin in (Union, UnionType):
        return " or ".join("nothing" if part is NoneType else _type_in_words(part) for part in get_args(kind))
    if origin is tuple and get_args(kind)[1:] == (Ellipsis,):
        return f"a list of {_type_in_words(get_args(kind)[0])}"
    if origin is not None:
        return str(kind).replace("typing.", "").replace("collections.abc.", "")
    return getattr(kind, "__name__", str(kind))
