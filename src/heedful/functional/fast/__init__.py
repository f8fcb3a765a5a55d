"""Compiled inner loops. A reader may skip them."""
