"""Prometheus metrics of the server."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from glamm_jax.serving.jobs import AnswerJob

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class EngineMetrics:
    """Counters, gauges and histograms, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"glamm_{name}", text, registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"glamm_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"glamm_{name}", text, registry=self.registry, buckets=SECONDS)

        self.waiting = gauge("requests_waiting", "Questions that wait for a slot")
        self.active = gauge("slots_active", "Slots whose answer is being decoded")
        self.questions = counter("questions", "Questions by outcome", "outcome")
        self.responses = counter("http_responses", "HTTP responses", "path", "status")
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts, patches included")
        self.answer_tokens = counter("answer_tokens", "Generated tokens")
        self.masks = counter("masks", "Decoded masks")
        self.queue_seconds = histogram("queue_seconds", "Time from request to prefill")
        self.first_token_seconds = histogram(
            "first_token_seconds", "Time from request to first token"
        )
        self.total_seconds = histogram("total_seconds", "Time from request to answer")

    def observe_end(self, job: AnswerJob, outcome: str) -> None:
        """Count the end of a question; `outcome` is "answered" or the name of an error."""
        self.questions.labels(outcome).inc()
        if outcome == "answered":
            self.total_seconds.observe(time.monotonic() - job.submitted)

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
