"""What the worker counts by class: bounded, and no class hidden behind another."""

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from stream.metrics import Metrics, distinct


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry(), max_batch=8)


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
