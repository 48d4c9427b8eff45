"""The metrics that worker and trainer really export: from their registries, not from a list."""

from collections import defaultdict
from functools import cache

import numpy as np
from prometheus_client import CollectorRegistry

from layercache.cache_training.certifying.audit_tally import DisagreementCount
from layercache.cache_training.service.metrics import TrainerMetrics
from layercache.cache_training.trainer import Progress
from layercache.schemas.settings import Promise
from layercache.stream.worker.metrics import Metrics

#: What a Prometheus adds to each series that it scrapes.
TARGET_LABELS = frozenset({"job", "instance"})
#: What it makes by itself.
OWN = {
    "up": TARGET_LABELS,
    "ALERTS": TARGET_LABELS | {"alertname", "alertstate", "severity", "reason", "version"},
}


@cache
def exported() -> dict[str, frozenset[str]]:
    """Names of series, to the labels that they have in a Prometheus which scrapes both."""
    found: dict[str, set[str]] = defaultdict(set)
    for registry in (worker_registry(), trainer_registry()):
        for family in registry.collect():
            assert family.samples, f"{family.name} has no series: give it one in {__name__}"
            for sample in family.samples:
                found[sample.name] |= sample.labels.keys() | TARGET_LABELS
    return {name: frozenset(labels) for name, labels in found.items()} | OWN


def worker_registry() -> CollectorRegistry:
    """A worker's, once everything that it counts has happened."""
    metrics = Metrics(max_batch=32)
    metrics.show_promise(Promise(overload_max_disagreement=0.05))
    metrics.frames.labels("full").inc()
    metrics.count_by_class(("cat",), np.array([0]), np.array([True]))
    metrics.dead_letters.labels("corrupt").inc()
    metrics.observe("decode", 0.001)
    metrics.observe_latency("normal", [1], 2)
    metrics.show_lags("frames", {0: 1})
    metrics.show_heads("v1")
    metrics.distillation_held_back.labels("trainer").inc()
    metrics.commits.labels("committed").inc()
    metrics.aborts.labels("lost").inc()
    metrics.replaced_producers.labels("fenced").inc()
    metrics.rebalances.labels("assigned").inc()
    return metrics.registry


def trainer_registry() -> CollectorRegistry:
    """A trainer's that has reported once."""
    metrics = TrainerMetrics()
    progress = Progress(
        audits=1, repeated=0, views=1, tuning=1, certification=1, independent=1, scenes_outlast=False, misses=1,
        lessons=1, attempts=0, version=None, expected_time_saved=0.0, disagreeing_passes=0,
        worst_classes=(("cat", DisagreementCount(0, 1, 1)),), worst_keys=(),
    )  # fmt: skip
    metrics.show(progress, None)
    return metrics.registry
