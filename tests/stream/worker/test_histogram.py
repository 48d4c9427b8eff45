"""Many values at once count as they would one by one."""

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.metrics_core import Metric

from layercache.stream.worker.histogram import BatchHistogram

BUCKETS = (0.001, 0.5, 1.0, 5.0)
VALUES = st.floats(0, 10) | st.sampled_from(BUCKETS)


def samples(registry: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families: list[Metric] = list(registry.collect())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): round(sample.value, 9)
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@given(batches=st.lists(st.tuples(st.sampled_from(["decode", "wait"]), st.lists(VALUES, max_size=40)), max_size=8))
@settings(deadline=None, derandomize=True)
def test_the_same_samples_as_prometheus_own_histogram(batches: list[tuple[str, list[float]]]) -> None:
    expected, found = CollectorRegistry(), CollectorRegistry()
    one_by_one = Histogram("stage_seconds", "Time.", ["stage"], registry=expected, buckets=BUCKETS)
    at_once = BatchHistogram("stage_seconds", "Time.", "stage", BUCKETS, found)
    for stage, values in batches:
        one_by_one.labels(stage)  # shows zeroes where nothing was observed, as ours does
        for value in values:
            one_by_one.labels(stage).observe(value)
        at_once.observe(stage, values)
    assert samples(found) == samples(expected)
