"""Counts for Prometheus: requests, tokens, times, and how full the server is."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class ServerMetrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("heedful_requests", "HTTP requests", ["route", "status"], registry=self.registry)
        self.prompt_tokens = Counter("heedful_prompt_tokens", "Tokens of prompts", ["model"], registry=self.registry)
        self.generated_tokens = Counter("heedful_generated_tokens", "Tokens generated", ["model"], registry=self.registry)
        self.steps = Gauge("heedful_engine_steps", "Steps of all engines since the start", registry=self.registry)
        self.waiting = Gauge("heedful_waiting_responses", "Responses without a token yet", registry=self.registry)
        self.unfinished = Gauge(
            "heedful_unfinished_responses", "Responses that wait or are being written", ["model"], registry=self.registry
        )
        self.first_token = Histogram(
            "heedful_first_token_seconds",
            "Time from a request to its first token",
            ["model"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.lasted = Histogram(
            "heedful_response_seconds",
            "Time from a request to the end of its responses",
            ["model"],
            buckets=_SECONDS,
            registry=self.registry,
        )
