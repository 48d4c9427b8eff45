"""What the worker tells Prometheus."""

import logging
from collections import Counter as Tally
from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter
from types import TracebackType

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from layercache.schemas.settings import Promise
from layercache.stream.worker.health import Health, serve
from layercache.stream.worker.histogram import BatchHistogram

log = logging.getLogger(__name__)

_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_STAGE_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
#: Only the first so many classes are counted by name: Prometheus keeps a series for each, and models have thousands.
_MAX_CLASSES = 200
_OTHER_CLASSES = "other"


class Metrics:
    """The worker's metrics, in a registry of their own."""

    def __init__(self, max_batch: int) -> None:
        self.registry = registry = CollectorRegistry()
        self.health = Health(partitions=lambda: (_value(self.partitions), _value(self.unconfirmed_partitions)))
        ProcessCollector(registry=registry)  # memory and processor time
        self.frames = Counter("layercache_frames", "Frames answered, by exit.", ["exit"], registry=registry)
        self.audits = Counter("layercache_audits", "Frames audited.", registry=registry)
        self.disagreements = Counter(
            "layercache_audit_disagreements", "Audits that the exits would have answered otherwise.", registry=registry
        )
        self._class_audits = Counter(
            "layercache_class_audits",
            "Audits that the exits answered too, or passed on, by the full model's class.",
            ["class"],
            registry=registry,
        )
        self._class_disagreements = Counter(
            "layercache_class_disagreements",
            "Audits that the exits would have answered otherwise, by the full model's class.",
            ["class"],
            registry=registry,
        )
        self._named_classes: set[int] = set()
        self._budget = Gauge(
            "layercache_max_disagreement",
            "How often exits may answer otherwise than the full model: on normal days, and under overload.",
            ["budget"],
            registry=registry,
        )
        self.dead_letters = Counter(
            "layercache_dead_letters", "Frames that could not be answered.", ["reason"], registry=registry
        )
        self.flops = Counter(
            "layercache_flops", "FLOPs spent, as multiples of one frame on the plain model.", registry=registry
        )
        self.model_time = Counter(
            "layercache_model_time",
            "Time spent, as multiples of one frame on the plain model, by what the trainer measured for each exit.",
            registry=registry,
        )
        self.batch_size = Histogram(
            "layercache_batch_size", "Frames per micro-batch.", registry=registry, buckets=_powers_of_two(max_batch)
        )
        self._stages = BatchHistogram(
            "layercache_stage_seconds",
            "Time by stage: decode and wait per frame; inference, produce and commit per batch or transaction.",
            "stage",
            _STAGE_BUCKETS,
            registry,
        )
        self._latency = BatchHistogram(
            "layercache_latency_seconds",
            "From a frame's timestamp to its prediction, by the budget that its exits were open for.",
            "budget",
            _LATENCY_BUCKETS,
            registry,
        )
        self.lag = Gauge(
            "layercache_consumer_lag", "Frames still to be read.", ["topic", "partition"], registry=registry
        )
        self._heads = Gauge("layercache_heads_info", "1 for the version in force.", ["version"], registry=registry)
        self.distillation_share = Gauge(
            "layercache_distillation_share", "Share of the misses that is sent to the trainer.", registry=registry
        )
        self.distillation_share.set(1.0)
        self.distillation_held_back = Counter(
            "layercache_distillation_held_back",
            "Misses not sent, by who could not keep up.",
            ["why"],
            registry=registry,
        )
        self.lessons = Counter(
            "layercache_distillation_lessons",
            "Frames that no head was sure of and the compiled model answered, sent to the trainer to learn from.",
            registry=registry,
        )
        self.exits_closed = Gauge(
            "layercache_exits_closed", "1 while the worker keeps its exits closed on an alarm.", registry=registry
        )
        self.lag_seconds = Gauge(
            "layercache_lag_seconds", "Seconds of work that wait, with exits as on other days.", registry=registry
        )
        self.overload = Gauge(
            "layercache_overload", "1 while frames are answered under the budget for overload.", registry=registry
        )
        self.overload_frames = Counter(
            "layercache_overload_frames", "Frames answered under the budget for overload.", registry=registry
        )
        self.overload_closed = Gauge(
            "layercache_overload_closed", "1 while an alarm keeps exits from opening wider.", registry=registry
        )
        self.store_errors = Counter("layercache_store_errors", "Failed looks for new heads.", registry=registry)
        self.heads_refused = Counter(
            "layercache_heads_refused",
            "Versions of heads that must not be used: damaged, or without a right signature.",
            registry=registry,
        )
        self.commits = Counter(
            "layercache_transactions", "Commits of predictions and offsets.", ["result"], registry=registry
        )
        self.aborts = Counter(
            "layercache_aborts", "Transactions that were taken back, by reason.", ["reason"], registry=registry
        )
        self.last_commit = Gauge(
            "layercache_last_commit_timestamp_seconds",
            "When something was committed last, 0 before.",
            registry=registry,
        )
        self.replaced_producers = Counter(
            "layercache_replaced_producers",
            "Producers that another one replaced, by reason.",
            ["reason"],
            registry=registry,
        )
        self.rebalances = Counter(
            "layercache_rebalances",
            "Rebalances in which partitions were assigned, revoked or lost.",
            ["kind"],
            registry=registry,
        )
        self.lost_partitions = Counter(
            "layercache_lost_partitions",
            "Partitions that went to others before the worker knew of it.",
            registry=registry,
        )
        self.partitions = Gauge(
            "layercache_partitions", "Partitions that are assigned to the worker.", registry=registry
        )
        self.unconfirmed_partitions = Gauge(
            "layercache_unconfirmed_partitions",
            "Partitions that wait until the broker tells their committed offsets.",
            registry=registry,
        )
        self.frames_deleted = Counter(
            "layercache_frames_deleted_unanswered",
            "Frames that the topic had deleted before a worker read them.",
            registry=registry,
        )

    def observe(self, stage: str, *seconds: float) -> None:
        """Time spent in a stage, once or several times."""
        self._stages.observe(stage, seconds)

    def observe_latency(self, budget: str, timestamps_ms: Iterable[int], predicted_ms: int) -> None:
        """Frames of these timestamps (0: none) were answered; a publisher's clock that is ahead counts as no time."""
        self._latency.observe(budget, [max(0, predicted_ms - at) / 1000 for at in timestamps_ms if at])

    def stage(self, name: str) -> "Stopwatch":
        """Times a ``with`` block."""
        return Stopwatch(self, name)

    def count_by_class(
        self, classes: Sequence[str], labels: npt.NDArray[np.int64], disagreed: npt.NDArray[np.bool_]
    ) -> None:
        """Audits of open or shadowed exits: the full model's ``labels`` ``[N]``, and whether the exits ``disagreed``.

        ``classes`` are the model's, by :func:`distinct`.
        """
        audits, disagreements = Tally[str](), Tally[str]()
        for label, wrong in zip(labels.tolist(), disagreed.tolist(), strict=True):
            if len(self._named_classes) < _MAX_CLASSES:
                self._named_classes.add(label)
            name = classes[label] if label in self._named_classes else _OTHER_CLASSES
            audits[name] += 1
            disagreements[name] += wrong
        for name, count in audits.items():
            self._class_audits.labels(name).inc(count)
            # Also by nothing: a class without disagreements shows a zero instead of no series.
            self._class_disagreements.labels(name).inc(disagreements[name])

    def show_overload(self, overloaded: bool, frames: int, closed: bool) -> None:
        """Whether ``frames`` were answered under the budget for overload, and whether an alarm forbids that."""
        self.overload.set(overloaded)
        self.overload_frames.inc(frames if overloaded else 0)
        self.overload_closed.set(closed)

    def show_promise(self, promise: Promise) -> None:
        """Shows the budgets, beside which dashboards put the disagreements."""
        self._budget.labels("normal").set(promise.max_disagreement)
        if promise.overload_max_disagreement is not None:
            self._budget.labels("overload").set(promise.overload_max_disagreement)

    def show_heads(self, version: str | None) -> None:
        """Which version of heads is in force."""
        self._heads.clear()
        self._heads.labels(version or "none").set(1)

    def show_lags(self, topic: str, lags: Mapping[int, int]) -> None:
        """Shows the lags of this worker's partitions; other workers show those of theirs."""
        self.lag.clear()
        for partition, lag in lags.items():
            self.lag.labels(topic, str(partition)).set(lag)

    def serve(self, port: int) -> int:
        """Serves metrics and health over HTTP on ``port``, 0 for any; returns the port. Raises ``OSError``."""
        try:
            port = serve(self.registry, self.health, port)
        except OSError as error:
            raise OSError(f"cannot serve metrics on port {port}: {error.strerror}; set worker.metrics_port") from error
        log.info("metrics at http://localhost:%d/metrics", port)
        return port


class Stopwatch:
    """Times one ``with`` block; ``seconds`` is how long it took."""

    def __init__(self, metrics: Metrics, stage: str) -> None:
        self._metrics = metrics
        self._stage = stage
        self.seconds = 0.0

    def __enter__(self) -> "Stopwatch":
        self._began = perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = perf_counter() - self._began
        self._metrics.observe(self._stage, self.seconds)


def distinct(classes: Sequence[str]) -> tuple[str, ...]:
    """Names by which classes can be told apart: torchvision's weights know two kinds of "crane".

    >>> distinct(["crane", "drake", "crane"])
    ('crane (0)', 'drake', 'crane (2)')
    """
    repeated = Tally(classes)
    return tuple(f"{name} ({index})" if repeated[name] > 1 else name for index, name in enumerate(classes))


def _value(gauge: Gauge) -> int:
    return int(next(iter(gauge.collect())).samples[0].value)


def _powers_of_two(limit: int) -> tuple[float, ...]:
    return tuple(float(2**power) for power in range(limit.bit_length() + 1))
