"""Settings that every test shares."""

from __future__ import annotations

from hypothesis import settings
from jaxtyping import install_import_hook

# Shapes and types that heedful.functional declares are checked at run time, here only: the check costs time in training.
# The "tower" lets an int stand for a float, as the type checker does.
install_import_hook("heedful.functional", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

# A busy machine is not a failure, and the same commit gives the same verdict.
settings.register_profile("heedful", deadline=None, derandomize=True)
settings.load_profile("heedful")
