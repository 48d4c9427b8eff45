"""Alerts and panels ask for metrics and labels that worker and trainer really export."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.support.exported_metrics import OWN, exported
from tests.support.promql import asked

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
RULES = DEPLOY / "prometheus" / "rules"
DASHBOARDS = DEPLOY / "grafana" / "dashboards"


class Query(NamedTuple):
    """An expression, and the labels of its result that are shown."""

    where: str
    expression: str
    shown: frozenset[str]


def queries() -> Iterator[Query]:
    for path in sorted(RULES.glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                text = " ".join(rule["annotations"].values())
                yield Query(rule["alert"], rule["expr"], frozenset(re.findall(r"\$labels\.(\w+)", text)))
    for path in sorted(DASHBOARDS.glob("*.json")):
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                shown = frozenset(re.findall(r"\{\{\s*(\w+)\s*\}\}", target["legendFormat"]))
                yield Query(f"{panel['title']} {target['refId']}", target["expr"], shown)
        for annotation in board["annotations"]["list"]:
            yield Query(annotation["name"], annotation["expr"], frozenset())


QUERIES = list(queries())


@pytest.mark.parametrize("query", QUERIES, ids=[query.where for query in QUERIES])
def test_a_query_asks_for_what_is_exported(query: Query) -> None:
    found = list(asked(query.expression, query.shown))
    assert found
    for name, labels in found:
        assert name in exported(), f"nobody exports {name}"
        assert labels <= exported()[name], f"{name} has no label {sorted(labels - exported()[name])}"


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("rate(layercache_frame_total[5m])", "another name"),
        ('sum(layercache_frames_total{stage="decode"})', "a label of another metric"),
        ("sum by (exit) (layercache_audits_total)", "grouped by a label that it has not"),
    ],
)
def test_a_query_for_something_else_would_be_found(expression: str, why: str) -> None:
    assert not all(name in exported() and labels <= exported()[name] for name, labels in asked(expression)), why


def test_every_metric_is_shown_or_watched_somewhere() -> None:
    """What is exported and never looked at is either missing on the dashboard or not worth exporting."""
    used = {name for query in QUERIES for name, _ in asked(query.expression)}
    parts = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
    ours = {name for name in exported() if name.startswith("layercache_") and not name.endswith("_created")}
    left = {name for name in ours if re.sub(r"_(bucket|sum|count)$", "", name) not in parts}
    assert left == {
        "layercache_audit_disagreements_total",  # the same by class, which has the audits of exits beside it
        "layercache_distillation_held_back_total",  # who holds back; how much is distillation_share
        "layercache_overload_frames_total",  # for bills; alerts and panels watch whether it lasts
    }
    assert OWN.keys() <= used
