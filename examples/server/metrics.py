"""What Prometheus reads at GET /metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The numbers of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # processor time and memory
        self.requests = Counter("fastdiff_requests", "Requests by how they ended", ["outcome"], registry=registry)
        self.waiting = Gauge("fastdiff_requests_waiting", "Requests that wait for slots", registry=registry)
        self.running = Gauge("fastdiff_requests_running", "Requests that run", registry=registry)
        self.evaluations = Counter("fastdiff_evaluations", "Model evaluations of samples", registry=registry)
        self.latency = Histogram(
            "fastdiff_request_seconds", "From arrival to the samples", buckets=SECONDS, registry=registry
        )
        self.step = Histogram(
            "fastdiff_step_seconds", "A step: the model and the solvers", buckets=SECONDS, registry=registry
        )
