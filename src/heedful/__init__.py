"""Heedful teaches a language model to follow instructions from human feedback (InstructGPT, whole)."""

__version__ = "0.1.0"
