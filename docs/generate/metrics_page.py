"""Reference: every metric, from the registries that Prometheus reads."""

from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from layercache.cache_training.service.metrics import TrainerMetrics
from layercache.stream.worker.metrics import Metrics

_HEAD = """# Metrics

A counter's name ends in `_total`, a histogram has `_bucket`, `_sum` and `_count`. Rules for alerts on them, and what to
do then: [alerts](../alerts.md).
"""
_WORKER = """## A worker's

With `worker.metrics_port` a worker serves these at `/metrics`, and `/healthz` and `/readyz` beside it
([probes](../kubernetes.md)). All are the worker's own: sum over workers.
"""
_TRAINER = """## The trainer's

With `trainer.web_port`, at `/metrics` of that port.
"""
_TABLE = "| metric | type | labels | meaning |\n|---|---|---|---|"
_TAIL = """## Shares and rates that are worth a panel

| | PromQL |
|---|---|
| hit rate | `1 - sum(rate(layercache_frames_total{exit="full"}[5m])) / sum(rate(layercache_frames_total[5m]))` |
| time saved, by the trainer's clock | `1 - sum(rate(layercache_model_time_total[5m])) \
/ sum(rate(layercache_frames_total[5m]))` |
| FLOPs saved; below 0 where more were spent, as by the model in int8 | `1 - sum(rate(layercache_flops_total[5m])) \
/ sum(rate(layercache_frames_total[5m]))` |
| audited disagreement | `sum(increase(layercache_class_disagreements_total[1d])) \
/ sum(increase(layercache_class_audits_total[1d]))` |
| dead letters a second, by reason | `sum by (reason) (rate(layercache_dead_letters_total[5m]))` |

`layercache_audits_total` counts audits while no exit is open as well, all of which agree; those by class are counted
only while there are exits to disagree.
"""


class Metric(NamedTuple):
    """One metric as Prometheus sees it; ``name`` is a counter's with its ``_total``."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


def worker_metrics() -> list[Metric]:
    """All metrics of a worker, by name.

    >>> [metric.labels for metric in worker_metrics() if metric.name == "layercache_frames_total"]
    [('exit',)]
    """
    return sorted(_metrics(Metrics(max_batch=32).registry))


def trainer_metrics() -> list[Metric]:
    """All metrics of the trainer, by name.

    >>> "layercache_trainer_audits" in [metric.name for metric in trainer_metrics()]
    True
    """
    return sorted(_metrics(TrainerMetrics().registry))


def _metrics(registry: CollectorRegistry) -> Iterator[Metric]:
    # Only collectors know their labels: a family without samples has none.
    for collector in registry._collector_to_names:
        labels = getattr(collector, "_labelnames", None) or (getattr(collector, "_label", None),)
        for family in collector.collect():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            yield Metric(name, family.type, tuple(filter(None, labels)), family.documentation)


def page() -> str:
    """Markdown, a table for each process."""
    worker, trainer = ("\n".join([_TABLE, *map(_line, one)]) + "\n" for one in (worker_metrics(), trainer_metrics()))
    return "\n".join([_HEAD, _WORKER, worker, _TRAINER, trainer, _TAIL])


def _line(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |"
