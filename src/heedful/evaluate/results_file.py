"""Checks, reads and writes ``results.json``, ``timings.json`` and other files of numbers.

The schema is in :mod:`heedful.evaluate.results`. The same values give the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, cast

from cattrs import Converter, transform_error

from heedful.errors import DataError, MissingError
from heedful.evaluate.results import Results, Timings
from heedful.project.files import write_atomically


def check_results(value: object, where: str | Path | None = None) -> Results:
    """Return ``value`` as Results; DataError names every place that does not fit the schema, and unknown models."""
    results = cast(Results, _checked(value, Results, where))
    known = {model["name"] for model in results["models"]}
    unknown = sorted(_mentioned_models(results) - known)
    if unknown:
        raise DataError(
            "the results mention a model that is not in their list of models",
            expected=f"one of {', '.join(sorted(known))}",
            got=", ".join(unknown),
            where=where,
            next_step="add it to 'models', or correct the name",
        )
    return results


def check_timings(value: object, where: str | Path | None = None) -> Timings:
    """Return ``value`` as Timings; DataError as for check_results."""
    return cast(Timings, _checked(value, Timings, where))


def load_results(path: str | Path) -> Results:
    """Read and check a ``results.json``; MissingError or DataError."""
    return check_results(_read_json(path), path)


def load_timings(path: str | Path) -> Timings:
    """Read and check a ``timings.json``; MissingError or DataError."""
    return check_timings(_read_json(path), path)


def save_results(path: str | Path, results: Results) -> None:
    """Write the checked results as JSON that depends only on their values. Raises StorageError.

    Keys sorted, numbers to six significant digits (far below any interval, above the last bits' noise), ``\\n`` at the end.
    """
    _write_json(path, check_results(_plain(results), path))


def save_timings(path: str | Path, timings: Timings) -> None:
    """Write the checked timings beside the results. Raises StorageError."""
    _write_json(path, check_timings(_plain(timings), path))


def save_numbers(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write any numbers as JSON in the same format: six significant digits, NaN and infinity as null. Raises StorageError."""
    _write_json(path, _plain(value))


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 atomically: a reader sees the old file or the new one. Raises StorageError.

    A lone surrogate (a model may sample half a character) becomes ``?``, so that every text can be written.
    """
    write_atomically(path, text.encode(errors="replace"))


def _write_json(path: str | Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _read_json(path: str | Path) -> object:
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingError(f"there is no {path.name}", where=path, next_step="run `heedful align` to make it") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path.name} is not JSON",
            expected="one JSON object in UTF-8",
            got=str(error),
            where=path,
            next_step="run `heedful align` to write it again",
        ) from error


def _plain(value: Any) -> Any:
    """Convert to JSON's own types: numpy numbers to Python's, floats to six significant digits, NaN and infinity to null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in cast(Mapping[object, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in cast(list[Any], value)]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        return float(f"{number:.6g}") if math.isfinite(number) else None
    return value


def _checked(value: object, schema: type, where: str | Path | None) -> object:
    try:
        return _CONVERTER.structure(value, schema)
    except Exception as error:  # cattrs wraps whatever the hooks raise in exception groups
        problems = transform_error(error, format_exception=_problem)
        shown = problems[:8] + ([f"and {len(problems) - 8} more"] if len(problems) > 8 else [])
        raise DataError(
            f"this is not a valid {schema.__name__} object",
            expected=f"the schema of heedful.evaluate.results.{schema.__name__}",
            got="; ".join(shown),
            where=where,
            next_step="run `heedful align` to write it again with this version",
        ) from error


def _problem(error: BaseException, _type: object) -> str:
    if isinstance(error, KeyError):
        return f"missing key {error}"
    return str(error) or type(error).__name__


def _exactly(name: str, *types: type) -> Callable[[Any, Any], Any]:
    """Make a cattrs hook that accepts a value unchanged or refuses it: "0.5" is not a number and 1.5 is not a count."""

    def structure(value: Any, _type: object) -> Any:
        finite = not isinstance(value, float) or math.isfinite(value)
        if isinstance(value, types) and finite and (bool in types or not isinstance(value, bool)):
            return value
        raise ValueError(f"expected {name}, got {_shortened(value)}")

    return structure


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _make_converter() -> Converter:
    converter = Converter(forbid_extra_keys=True)
    converter.register_structure_hook(str, _exactly("text", str))
    converter.register_structure_hook(int, _exactly("a whole number", int))
    converter.register_structure_hook(float, _exactly("a finite number", int, float))
    converter.register_structure_hook(bool, _exactly("true or false", bool))
    converter.register_structure_hook(
        float | None, lambda value, _: None if value is None else converter.structure(value, float)
    )
    converter.register_structure_hook(int | None, lambda value, _: None if value is None else converter.structure(value, int))
    return converter


_CONVERTER = _make_converter()


def _mentioned_models(results: Results) -> set[str]:
    mentioned: set[str] = set()
    preference = results.get("preference")
    if preference is not None:
        mentioned |= {preference["baseline"]}
        mentioned |= {row["model"] for row in preference["win_rates"]}
        mentioned |= {name for row in preference["head_to_head"] for name in (row["model"], row["against"])}
        mentioned |= {row["model"] for row in preference["by_use_case"]}
    mentioned |= {row["model"] for row in results.get("ratings", [])}
    if "alternatives" in results:
        mentioned |= {row["model"] for row in results["alternatives"]["rows"]}
    if "refusals" in results:
        mentioned |= {row["model"] for row in results["refusals"]["rates"]}
    mentioned |= {row["model"] for row in results.get("closed_domain_hallucination", [])}
    mentioned |= {score["model"] for benchmark in results.get("benchmarks", []) for score in benchmark["scores"]}
    mentioned |= {response["model"] for row in results.get("transcripts", []) for response in row["responses"]}
    return mentioned
