"""Reference: every metric, from the registries that Prometheus reads."""

from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from stream.metrics import Metrics

_HEAD = """# Metrics

With `worker.metrics_port` a worker serves these at `/metrics`, and `/healthz` and `/readyz` beside it
([probes](../kubernetes.md)). A counter's name ends in `_total`, a histogram has `_bucket`, `_sum` and `_count`. All are
the worker's own: sum over workers.

| metric | type | labels | meaning |
|---|---|---|---|
"""
_TAIL = """
Shares and rates that are worth a panel:

| | PromQL |
|---|---|
| hit rate | `1 - sum(rate(layercache_frames_total{exit="full"}[5m])) / sum(rate(layercache_frames_total[5m]))` |
| FLOPs saved | `1 - sum(rate(layercache_flops_total[5m])) / sum(rate(layercache_frames_total[5m]))` |
| audited disagreement | `sum(increase(layercache_class_disagreements_total[1d])) \
/ sum(increase(layercache_class_audits_total[1d]))` |
| dead letters a second, by reason | `sum by (reason) (rate(layercache_dead_letters_total[5m]))` |

`layercache_audits_total` counts audits while no exit is open as well, all of which agree; those by class are counted only
while there are exits to disagree.
"""


class Metric(NamedTuple):
    """One metric as Prometheus sees it; ``name`` is a counter's with its ``_total``."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


def metrics() -> Iterator[Metric]:
    """All that a worker exports, by name.

    >>> [metric.labels for metric in metrics() if metric.name == "layercache_frames_total"]
    [('exit',)]
    """
    registry = CollectorRegistry()
    Metrics(registry, max_batch=32)
    found = []
    # Labels are known to the collectors alone: a family without samples shows none.
    for collector in registry._collector_to_names:
        labels = getattr(collector, "_labelnames", None) or (getattr(collector, "_label", None),)
        for family in collector.collect():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found.append(Metric(name, family.type, tuple(filter(None, labels)), family.documentation))
    yield from sorted(found)


def page() -> str:
    """Markdown, one table."""
    return _HEAD + "\n".join(map(_line, metrics())) + "\n" + _TAIL


def _line(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |"
