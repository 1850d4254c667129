"""What `/metrics` tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import Scope

from decoding.service import Statistics

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BETWEEN = (0.0001, 0.00025, 0.0005, *_SECONDS)


class Metrics:
    """Counts of one server.

    Args:
        statistics: returns how each model's engine is doing, by the model's name.
    """

    def __init__(self, statistics: Callable[[], dict[str, Statistics]]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Engines(statistics))
        common: dict[str, Any] = {"namespace": "decoding", "registry": self._registry}
        self._requests = Counter(
            "requests", "Requests that were answered; 499: the client left.", ["path", "model", "status"], **common
        )
        self._tokens = Counter("tokens", "Tokens of prompts, and of outputs.", ["model", "kind"], **common)
        self._first = Histogram("time_to_first_token_seconds", "Of streams.", ["model"], buckets=_SECONDS, **common)
        self._between = Histogram("time_between_tokens_seconds", "Of streams.", ["model"], buckets=_BETWEEN, **common)

    def answered(self, scope: Scope, status: int) -> None:
        """Count a request. Its path is counted where there is a route for it: there must not be endless many."""
        path = getattr(scope.get("route"), "path", "other")
        self._requests.labels(path, scope.get("state", {}).get("model", ""), str(status)).inc()

    def read(self, model: str, tokens: int) -> None:
        """Count tokens of prompts."""
        self._tokens.labels(model, "prompt").inc(tokens)

    def wrote(self, model: str, tokens: int) -> None:
        """Count tokens of outputs."""
        self._tokens.labels(model, "output").inc(tokens)

    def stream(self, model: str) -> StreamTimes:
        """Return what measures the times of a stream that begins."""
        return StreamTimes(self._first.labels(model), self._between.labels(model))

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)


class StreamTimes:
    """The times between the tokens of a stream.

    Attributes:
        tokens: how many have come.
    """

    def __init__(self, first: Histogram, between: Histogram) -> None:
        self._first, self._between = first, between
        self._last: float | None = None
        self.tokens = 0

    def came(self, start: float, now: float, tokens: int) -> None:
        """Count tokens that have come together.

        Args:
            start: when the request came, in seconds.
        """
        self.tokens += tokens
        if not tokens:
            return
        if self._last is None:
            self._first.observe(now - start)
            tokens -= 1
        for _ in range(tokens):
            self._between.observe((now - (start if self._last is None else self._last)) / tokens)
        self._last = now


class _Engines(Collector):
    """Reads how the engines are doing when somebody asks."""

    def __init__(self, statistics: Callable[[], dict[str, Statistics]]) -> None:
        self._statistics = statistics

    def collect(self) -> Iterable[Metric]:
        """Return a gauge for each number, with a value for each model."""
        gauges = {
            "queued": GaugeMetricFamily("decoding_queued_requests", "Requests that wait for a slot.", labels=["model"]),
            "running": GaugeMetricFamily("decoding_running_requests", "Requests that have slots.", labels=["model"]),
            "batch_fill": GaugeMetricFamily(
                "decoding_batch_fill", "Slots that have a row, as a share.", labels=["model"]
            ),
        }
        for model, own in self._statistics().items():
            for name, gauge in gauges.items():
                gauge.add_metric([model], getattr(own, name))
        return gauges.values()
