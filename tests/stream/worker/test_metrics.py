"""What the worker counts by class: bounded, and no class hidden behind another."""

import numpy as np
import pytest

from layercache.schemas.settings import Promise
from layercache.stream.worker.metrics import Metrics, distinct


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(max_batch=8)


def series(metrics: Metrics, name: str) -> dict[str, float]:
    """Value by class, of all classes that there are."""
    return {
        sample.labels["class"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == f"layercache_class_{name}_total"
    }


def test_audits_and_disagreements_are_counted_by_the_full_models_class(metrics: Metrics) -> None:
    classes = ("cat", "dog", "hen")
    metrics.count_by_class(classes, np.array([0, 1, 1]), np.array([False, True, False]))
    metrics.count_by_class(classes, np.array([1, 1]), np.array([True, True]))
    assert series(metrics, "audits") == {"cat": 1, "dog": 4}
    assert series(metrics, "disagreements") == {"cat": 0, "dog": 3}  # a zero, so that a share can be computed


def test_what_a_thousand_classes_add_is_bounded_and_nothing_is_lost(metrics: Metrics) -> None:
    classes = tuple(f"class {number}" for number in range(1000))
    labels = np.random.default_rng(0).permutation(1000)
    metrics.count_by_class(classes, labels, labels % 2 == 0)
    metrics.count_by_class(classes, labels[:200], np.zeros(200, np.bool_))  # those met first keep their names
    audits, disagreements = series(metrics, "audits"), series(metrics, "disagreements")
    assert len(audits) == len(disagreements) == 201
    assert (sum(audits.values()), sum(disagreements.values())) == (1200, 500)
    assert audits["other"] == 800
    assert {audits[classes[label]] for label in labels[:200]} == {2}


def test_classes_of_one_name_are_told_apart() -> None:
    assert distinct(["crane", "drake", "crane"]) == ("crane (0)", "drake", "crane (2)")
    assert distinct(["cat", "dog"]) == ("cat", "dog")


def test_latency_is_told_by_budget_and_counts_frames_without_a_timestamp_as_unknown(metrics: Metrics) -> None:
    metrics.observe_latency("normal", [9_000, 0, 9_960, 10_500], predicted_ms=10_000)  # the last: a clock that is ahead
    metrics.observe_latency("overload", [4_000], predicted_ms=10_000)

    def latency(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"layercache_latency_seconds_{name}", labels)

    assert [latency("bucket", budget="normal", le=le) for le in ("0.005", "0.05", "0.5", "1.0", "+Inf")] == [
        1,
        2,
        2,
        3,
        3,
    ]
    assert (latency("sum", budget="normal"), latency("sum", budget="overload")) == (1.04, 6.0)


@pytest.mark.parametrize(("overload", "told"), [(None, None), (0.05, 0.05)])
def test_the_budgets_are_told_to_whoever_compares_with_them(
    metrics: Metrics, overload: float | None, told: float | None
) -> None:
    metrics.show_promise(Promise(max_disagreement=0.02, overload_max_disagreement=overload))
    name = "layercache_max_disagreement"
    assert metrics.registry.get_sample_value(name, {"budget": "normal"}) == 0.02
    assert metrics.registry.get_sample_value(name, {"budget": "overload"}) == told
