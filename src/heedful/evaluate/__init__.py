"""Evaluation: what people prefer, what the benchmarks say, and the page that reports both (SPEC 4)."""
