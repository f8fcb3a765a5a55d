"""What tests of several files here hold with."""

from __future__ import annotations

import pytest
import torch

from heedful.functional.fast import kernels


@pytest.fixture(params=["compiled loops", "torch"])
def with_and_without_loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once with the compiled loops of :mod:`heedful.functional.fast.kernels`, once as on a GPU or without a compiler."""
    if request.param == "torch":
        monkeypatch.setattr(kernels, "usable", lambda _: False)
    elif not kernels.usable(torch.zeros(1)):
        pytest.skip("no C++ compiler on this machine")
