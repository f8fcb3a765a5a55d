"""Signs of misuse in requests and answers, found by classifiers that other packages provide as entry points.

An entry point of the group ``heedful.misuse`` names a callable that takes a text and returns the names of what it found::

    [project.entry-points."heedful.misuse"]
    weapons = "our_checks:find_weapons"        # def find_weapons(text: str) -> list[str]

The names of findings are logged, the texts are not. So production keys are checked too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.metadata import entry_points

GROUP = "heedful.misuse"
LONGEST_FLAG = 60
MOST_FLAGS = 20

Classifier = Callable[[str], Iterable[str]]

log = logging.getLogger("heedful.usage")


@cache
def installed() -> tuple[tuple[str, Classifier | None], ...]:
    """The classifiers of the installed packages, by name; None if one could not be loaded."""
    found: list[tuple[str, Classifier | None]] = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            found.append((point.name, point.load()))
        except Exception:  # another package's bug must not keep the application from starting
            log.exception("the misuse classifier %s could not be loaded", point.name)
            found.append((point.name, None))
    return tuple(found)


def flags_of(texts: Sequence[str], classifiers: Iterable[tuple[str, Classifier | None]]) -> list[str]:
    """What was found in any of the texts, each once. A classifier that fails is a finding too: nothing passes unnoticed."""
    flags: dict[str, None] = {}
    for name, classifier in classifiers:
        for text in texts:
            try:
                if classifier is None:
                    raise RuntimeError("it could not be loaded")
                found = [str(flag)[:LONGEST_FLAG] for flag in classifier(text)]
            except Exception as error:
                log.error("the misuse classifier %s failed: %s", name, type(error).__name__)  # its message may hold the text
                found = [f"{name} failed"[:LONGEST_FLAG]]
            flags.update(dict.fromkeys(found))
    return list(flags)[:MOST_FLAGS]
