"""The files of the stack agree with each other, with the settings and with the project."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from layercache.schemas import settings
from tests.support.docker import KAFKA_COMMAND, KAFKA_IMAGE, PROMETHEUS_IMAGE, PYTHON_IMAGE, STORE_IMAGE

ROOT = Path(__file__).parent.parent.parent
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"topics", "bucket"}
ENVIRONMENT = dict(
    line.split("=", 1) for line in (ROOT / ".env.example").read_text().splitlines() if line and line[0] != "#"
)
PROMETHEUS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
#: What stands in an expression of Compose: ${NAME}, ${NAME-default} or ${NAME:-default}.
VARIABLE = re.compile(r"\$\{(\w+)(?::?-([^}]*))?\}")


def filled_in(text: str) -> str:
    """As Compose fills it in where no variable is set."""
    return VARIABLE.sub(lambda found: found[2] or "", text)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> settings.Settings:
    """The settings as a container of the stack loads them."""
    for name, value in COMPOSE["x-layercache"]["environment"].items():
        if name.startswith("LAYERCACHE_") and name != "LAYERCACHE_CONFIG":
            monkeypatch.setenv(name, filled_in(str(value)))
    return settings.load(ROOT / "deploy" / "layercache.toml")


def test_every_variable_has_a_line_in_the_example_with_the_same_default() -> None:
    defaults: dict[str, set[str]] = {}
    for name, default in VARIABLE.findall(COMPOSE_TEXT):
        defaults.setdefault(name, set()).add(default)
    assert {name: {value} for name, value in ENVIRONMENT.items() if name != "COMPOSE_PROFILES"} == defaults
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", ())}
    assert set(ENVIRONMENT["COMPOSE_PROFILES"].split(",")) <= profiles


def test_the_images_are_the_ones_that_the_tests_run_on() -> None:
    images = {name: filled_in(service["image"]) for name, service in SERVICES.items()}
    assert (images["kafka"], images["prometheus"], images["store"]) == (KAFKA_IMAGE, PROMETHEUS_IMAGE, STORE_IMAGE)
    assert SERVICES["kafka"]["command"] == KAFKA_COMMAND
    assert ENVIRONMENT["PYTHON_IMAGE"] == PYTHON_IMAGE
    assert f"ARG PYTHON={PYTHON_IMAGE}\n" in (ROOT / "Dockerfile").read_text()
    for name, image in images.items():
        assert image == "layercache" or re.search(r":v?\d+\.\d+\.\d+$", image), f"{name}: pin a version, not {image}"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_bounded_watched_and_has_no_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    if name in ONE_SHOT:
        assert service["restart"] == "on-failure:5"
    else:
        assert service["restart"] == "unless-stopped"
    if name not in {*ONE_SHOT, "publisher"}:
        assert service["healthcheck"]["test"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    named = {volume.split(":")[0] for volume in service.get("volumes", ()) if re.match(r"\w", volume)}
    assert named <= set(COMPOSE["volumes"])


def test_workers_can_be_many() -> None:
    assert "/readyz" in str(SERVICES["worker"]["healthcheck"]["test"])  # who waits for them waits for their partitions
    assert "ports" not in SERVICES["worker"]  # two could not have the same one
    assert "container_name" not in SERVICES["worker"]


def test_services_start_after_what_they_need() -> None:
    needs = {name: service.get("depends_on", {}) for name, service in SERVICES.items()}
    for name in ("worker", "trainer", "dashboard"):
        assert {need: after["condition"] for need, after in needs[name].items()} == dict.fromkeys(
            ONE_SHOT, "service_completed_successfully"
        )
    assert needs["topics"] == {"kafka": {"condition": "service_healthy"}}
    assert needs["bucket"] == {"store": {"condition": "service_healthy"}}


def test_everything_listens_where_it_is_looked_for(loaded: settings.Settings) -> None:
    scraped = {
        (name, job["dns_sd_configs"][0]["port"])
        for job in PROMETHEUS["scrape_configs"]
        for name in job.get("dns_sd_configs", [{"names": ()}])[0]["names"]
    }
    assert scraped == {("worker", loaded.worker.metrics_port), ("trainer", loaded.trainer.web_port)}
    told = SERVICES["dashboard"]["command"].split()
    assert {told[at + 1] for at, word in enumerate(told) if word == "--metrics"} == {f"{n}:{p}" for n, p in scraped}
    for name, port in scraped:
        assert f"/dev/tcp/localhost/{port};" in SERVICES[name]["healthcheck"]["test"][-1]
    assert (
        f"INTERNAL://{loaded.kafka.bootstrap_servers}" in SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    )
    assert loaded.store.url == "s3://layercache/heads"
    assert "makedirs('layercache'" in SERVICES["bucket"]["command"][0]


def test_the_jobs_have_the_names_that_the_rules_ask_for() -> None:
    jobs = {job["job_name"] for job in PROMETHEUS["scrape_configs"]}
    for path in (ROOT / "deploy" / "prometheus").glob(PROMETHEUS["rule_files"][0]):
        assert set(re.findall(r'job="([^"]+)"', path.read_text())) <= jobs


def test_the_image_has_versions_for_all_that_the_project_asks_for() -> None:
    pinned = dict(
        line.split("==")
        for line in (ROOT / "deploy" / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    (taken,) = re.findall(r'^ARG EXTRAS="(.*)"$', (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for text in (*project["dependencies"], *(one for extra in (*taken.split(), "timm") for one in extras[extra])):
        asked = Requirement(text)
        assert asked.specifier.contains(pinned[canonicalize_name(asked.name)]), f"run deploy/lock.sh: {text}"


def test_what_the_image_is_built_from_is_sent_to_the_engine() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--)(.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        for source in line.split()
    }
    assert copied == sent
