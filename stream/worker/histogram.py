"""A Prometheus histogram that takes many values at once: observing each alone costs more than the work it measures."""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

#: Of fewer values numpy's fixed costs are the larger part.
_FEW = 16


class BatchHistogram(Collector):
    """A histogram with one label, as ``prometheus_client.Histogram`` would show it, but for its ``_created``.

    >>> registry = CollectorRegistry()
    >>> sizes = BatchHistogram("size", "Of boxes.", "kind", buckets=(1.0, 2.0), registry=registry)
    >>> sizes.observe("red", [0.5, 2.0, 7.0])
    >>> [registry.get_sample_value("size_bucket", {"kind": "red", "le": le}) for le in ("1.0", "2.0", "+Inf")]
    [1, 2, 3]
    >>> registry.get_sample_value("size_sum", {"kind": "red"})
    9.5
    """

    def __init__(
        self, name: str, documentation: str, label: str, buckets: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._label = label
        self._bounds = tuple(buckets)
        self._names = [*map(repr, buckets), "+Inf"]
        self._lock = threading.Lock()
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        registry.register(self)

    def observe(self, label: str, values: Sequence[float]) -> None:
        """Takes in ``values``, under the label's value ``label``."""
        # A value on a bucket's bound belongs to that bucket.
        with self._lock:
            counts = self._counts.setdefault(label, [0] * len(self._names))
            if len(values) < _FEW:
                for value in values:
                    counts[bisect_left(self._bounds, value)] += 1
            else:
                places = np.searchsorted(self._bounds, values, side="left")
                for place, count in enumerate(np.bincount(places).tolist()):
                    counts[place] += count
            self._sums[label] = self._sums.get(label, 0.0) + sum(values)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """For the registry."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=[self._label])
        with self._lock:
            seen = [(label, list(accumulate(counts)), self._sums[label]) for label, counts in self._counts.items()]
        for label, counts, total in seen:
            buckets = zip(self._names, counts, strict=True)
            family.add_metric([label], list(buckets), total)
        yield family
