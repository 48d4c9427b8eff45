"""Prometheus' rules: each fires when it should and stays quiet when it should, and says what to do."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.promtool import promtool

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent.parent
RULES = "deploy/prometheus/rules/layercache.yml"
CASES = "tests/deploy/alerts.yml"
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load((ROOT / RULES).read_text())["groups"] for rule in group["rules"]
}


def test_the_settings_and_rules_are_what_prometheus_takes() -> None:
    checked = promtool(ROOT, "check", "config", "deploy/prometheus/prometheus.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(ALERTS)} rules found" in checked.stdout


def test_alerts_fire_and_stay_quiet_as_the_cases_say() -> None:
    tested = promtool(ROOT, "test", "rules", CASES)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_a_case_that_does_not_hold_would_be_found(tmp_path: Path) -> None:
    case = yaml.safe_load((ROOT / CASES).read_text())
    (tmp_path / "rules.yml").write_text((ROOT / RULES).read_text().replace("layercache_lag_seconds) > 60", "x) > 60"))
    (tmp_path / "cases.yml").write_text(yaml.safe_dump(case | {"rule_files": ["rules.yml"]}))
    tmp_path.chmod(0o755)  # the container's user is another
    tested = promtool(tmp_path, "test", "rules", "cases.yml")
    assert tested.returncode != 0
    assert "alertname: LayercacheLag" in tested.stdout + tested.stderr


def test_each_alert_is_tried_both_ways() -> None:
    tried: dict[bool, set[str]] = {True: set(), False: set()}
    for group in yaml.safe_load((ROOT / CASES).read_text())["tests"]:
        for case in group["alert_rule_test"]:
            tried[bool(case["exp_alerts"])].add(case["alertname"])
    assert tried == {True: set(ALERTS), False: set(ALERTS)}


def test_each_alert_is_explained() -> None:
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), name
        assert set(rule["annotations"]) == {"summary", "description"}, name
    page = (ROOT / "docs" / "alerts.md").read_text()
    sections = dict(re.findall(r"^## (Layercache\w+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert list(sections) == list(ALERTS)  # in the rules' order
    for name, text in sections.items():
        assert text.startswith(ALERTS[name]["labels"]["severity"]), f"{name}: say how grave it is"
        assert "**Do:**" in text, f"{name}: say what to do"
