"""BLEU comes from sacrebleu (Post 2018), which is optional."""

from __future__ import annotations

from typing import Any

from heedful.errors import MissingError


def sacrebleu_class() -> Any:
    """Return the class ``sacrebleu.metrics.bleu.BLEU``. Raises MissingError if sacrebleu is not installed."""
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ModuleNotFoundError:
        raise MissingError(
            "BLEU is computed by sacrebleu, which is not installed",
            expected="the extra eval",
            got="no module sacrebleu",
            next_step="pip install 'heedful[eval]'",
        ) from None
    return BLEU
