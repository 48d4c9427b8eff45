"""Grafana's files: what is provisioned exists, and every panel can be drawn."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
GRAFANA = ROOT / "deploy" / "grafana"
(BOARD,) = (json.loads(path.read_text()) for path in GRAFANA.glob("dashboards/*.json"))
PANELS: list[dict[str, Any]] = BOARD["panels"]
DRAWN = [panel for panel in PANELS if panel["type"] != "row"]
#: Grafana's grid.
WIDTH = 24


def test_the_data_source_is_the_stacks_prometheus() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    host, port = source["url"].removeprefix("http://").split(":")
    assert services[host]["ports"][0].endswith(f":{port}")
    assert source["type"] == "prometheus"
    used = {json.dumps(thing["datasource"], sort_keys=True) for panel in DRAWN for thing in (panel, *panel["targets"])}
    used |= {json.dumps(note["datasource"], sort_keys=True) for note in BOARD["annotations"]["list"]}
    assert used == {json.dumps({"type": source["type"], "uid": source["uid"]}, sort_keys=True)}


def test_dashboards_are_where_the_container_finds_them() -> None:
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/layercache.yml").read_text())["providers"]
    grafana = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]
    mounted = dict(volume.split(":")[1::-1] for volume in grafana["volumes"])
    assert mounted[provider["options"]["path"]] == "./deploy/grafana/dashboards"
    assert mounted["/etc/grafana/provisioning"] == "./deploy/grafana/provisioning"
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (GRAFANA / "dashboards" / home.name).is_file()
    assert str(home.parent) == provider["options"]["path"]


def test_panels_are_told_apart_and_do_not_overlap() -> None:
    assert max(Counter(panel["id"] for panel in PANELS).values()) == 1
    assert max(Counter(panel["title"] for panel in PANELS).values()) == 1
    taken: Counter[tuple[int, int]] = Counter()
    for panel in PANELS:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= WIDTH
        taken.update((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"]))
    assert max(taken.values()) == 1


@pytest.mark.parametrize("panel", DRAWN, ids=[panel["title"] for panel in DRAWN])
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["targets"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    if panel["type"] != "table":
        assert panel["fieldConfig"]["defaults"]["unit"]
    legends = [target["legendFormat"] for target in panel["targets"]]
    if panel["type"] in ("timeseries", "bargauge"):
        assert all(legends), "a curve without a name"
        assert len(set(legends)) == len(legends)
    for override in panel["fieldConfig"]["overrides"]:
        name = override["matcher"]["options"]
        assert any(name.startswith(legend.split("{{")[0]) for legend in legends), f"no curve is called {name}"


def test_what_somebody_wants_to_know_first_is_there() -> None:
    shown = " ".join(panel["title"] + " " + panel["description"] for panel in DRAWN).lower()
    for wanted in (
        "throughput", "latency", "hit rate by exit", "flops", "time, expected", "disagreement and budget", "lag",
        "dead letters", "heads in force", "memory",
    ):  # fmt: skip
        legends = " ".join(target["legendFormat"] for panel in DRAWN for target in panel["targets"]).lower()
        assert wanted in shown or wanted in legends, wanted
