"""Every error that Heedful raises on purpose.

::

    HeedfulError                    exit code 1: the run failed
    ├── UserError                   exit code 2: something the user gave is not right
    │   ├── ConfigError             an unknown key, a value out of range
    │   ├── DataError               a file or row that is not in the expected form
    │   ├── MissingError            a file, folder, stage input or task does not exist
    │   ├── ModelError              a model folder or tokenizer that cannot be used
    │   ├── BusyError               another process is working in the same project or database
    │   ├── ConflictError           another person, or another page of the same person, was first
    │   └── RefusedError            this person may not do this
    │       └── ThrottledError      too many attempts: wait, then try again
    ├── CheckError                  a model's self-check failed: Heedful would not compute what the model computes
    ├── NumericalError              a loss or gradient that is NaN or infinite
    ├── StorageError                a disk is full or refuses to write; no partial file is left
    └── LostRankError               under torchrun: another process of the run has ended

Each message says what was expected, what was got, where, and what to do next.
"""

from __future__ import annotations

from pathlib import Path


class HeedfulError(Exception):
    """Base of all errors raised on purpose; ``str()`` is the whole message for a person."""

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        expected: str | None = None,
        got: str | None = None,
        where: str | Path | None = None,
        next_step: str | None = None,
    ) -> None:
        self.message = message
        self.expected = expected
        self.got = got
        self.where = None if where is None else str(where)
        self.next_step = next_step
        lines = [message]
        lines += [
            f"  {label + ':':<10}{text}"
            for label, text in (
                ("expected", expected),
                ("got", got),
                ("where", self.where),
                ("next", next_step),
            )
            if text is not None
        ]
        super().__init__("\n".join(lines))


class UserError(HeedfulError):
    """Something the user gave is not right: exit code 2, no traceback."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration file or flag holds an unknown key or a value out of range."""


class DataError(UserError):
    """A file or row is not in the expected form."""


class MissingError(UserError):
    """A file, folder, stage input or task does not exist."""


class ModelError(UserError):
    """A model folder or tokenizer cannot be used."""


class BusyError(UserError):
    """Another process is working in the same project, or has been writing to the database for a long time."""


class ConflictError(UserError):
    """The request no longer fits what is stored: already answered, a lost lease, an older draft."""


class RefusedError(UserError):
    """The person may not do this."""


class ThrottledError(RefusedError):
    """Too many attempts; ``wait_seconds`` says how long to wait."""

    def __init__(self, message: str, *, wait_seconds: float, next_step: str | None = None) -> None:
        super().__init__(message, next_step=next_step)
        self.wait_seconds = wait_seconds


class CheckError(HeedfulError):
    """In Heedful's layouts, its cache or its saved folder, a model gives other numbers than in plain transformers."""


class NumericalError(HeedfulError):
    """A loss or gradient is NaN or infinite; the last good checkpoint is untouched."""


class StorageError(HeedfulError):
    """A disk is full or refuses to write; no partial file is left behind."""


class LostRankError(HeedfulError):
    """Another process of a run under torchrun has ended; the run can continue from the last checkpoint."""
