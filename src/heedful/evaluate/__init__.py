"""Evaluation: what people prefer, how models score on benchmarks, and the page that reports both (SPEC 4)."""
