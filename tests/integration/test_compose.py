"""The stack of docker-compose.yml, for real: it comes up whole, answers each frame once, learns, and survives a crash.

One stack for all tests here, in this order: each adds to what is there.
"""

import json
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from layercache.schemas.prediction import FULL, Prediction
from layercache.schemas.settings import Kafka, Settings
from testbed.ports import free_ports
from testbed.waiting import wait_until
from testbed.worker_process import Reader, reading
from tests.deploy.test_queries import QUERIES
from tests.support.browser import browser, watched
from tests.support.docker import KAFKA_IMAGE, PROMETHEUS_IMAGE, PYTHON_IMAGE, STORE_IMAGE, docker, require_docker
from tests.support.promql import filled_in
from tests.support.stack import UP_S, Stack

#: The first build fetches torch, which may take minutes; later ones find the layers.
BUILD_S = 1200.0
WORKERS = 2

pytestmark = [pytest.mark.docker, pytest.mark.timeout(BUILD_S + 4 * UP_S)]

_LIST = "import s3fs; print(*s3fs.S3FileSystem().find('layercache/heads'))"
_WRITE = """
import os
for folder in FOLDERS:
    try:
        open(folder + "/x", "w").close()
        os.remove(folder + "/x")
        print(folder)
    except OSError:
        pass
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    require_docker(KAFKA_IMAGE, PYTHON_IMAGE, PROMETHEUS_IMAGE, STORE_IMAGE)
    project = f"layercache-test-{uuid.uuid4().hex[:8]}"
    on_free_ports(project).compose("build", seconds=BUILD_S)
    made = on_free_ports(project)  # not those from before the build: in its minutes anybody may have taken them
    try:
        made.up()
        yield made
    finally:
        print(made.compose("ps", "--all", check=False))
        print(made.compose("logs", "--no-color", "--tail", "200", check=False))  # pytest shows it where a test failed
        made.compose("--profile", "demo", "down", "--volumes", "--remove-orphans", "--timeout", "3", seconds=UP_S)
    label = f"label=com.docker.compose.project={made.project}"
    assert docker(["ps", "--all", "--quiet", "--filter", label]).stdout == ""
    assert docker(["volume", "ls", "--quiet", "--filter", label]).stdout == ""


def test_the_workers_answer_each_frame_once_and_a_crash_loses_none(stack: Stack) -> None:
    with reading(Settings(kafka=Kafka(bootstrap_servers=stack.bootstrap_servers)), "predictions") as reader:
        crashed, other = answered_once(stack, reader)

    stack.up()  # waits until it is healthy again; had it not come back by itself, its id would be another
    (back, still), (trainer,) = stack.containers("worker"), stack.containers("trainer")
    assert (back["Id"], back["RestartCount"]) == (crashed["Id"], 1)
    assert (still["Id"], still["RestartCount"]) == (other["Id"], 0)
    assert (trainer["State"]["Running"], trainer["RestartCount"]) == (True, 0)


def answered_once(stack: Stack, reader: Reader) -> list[dict[str, Any]]:
    """Publishes, crashes a worker in between, and looks at every answer; the workers' containers as they were."""
    stack.publish(100)
    answered = everything(reader, 100)
    assert repeated(reader) == []
    assert len(answered) == 100
    assert {prediction.exit for prediction in answered} == {FULL}  # no heads yet: never a guess
    wait_until(lambda: stack.number("sum(layercache_frames_total)") == 100, "all frames in Prometheus")

    before = stack.containers("worker")
    stack.publish(100)
    stack.crash("worker")
    stack.publish(100)
    answered = everything(reader, 300)
    assert repeated(reader) == []
    assert len(answered) == 300
    assert len({prediction.model for prediction in answered}) == 1
    return before


def test_prometheus_finds_both_workers_and_the_trainer_and_evaluates_every_rule(stack: Stack) -> None:
    def health() -> list[tuple[str, str]]:
        targets = stack.prometheus("targets", state="active")["activeTargets"]
        return sorted((target["labels"]["job"], target["health"]) for target in targets)

    jobs = [*["layercache-worker"] * WORKERS, "layercache-trainer", "prometheus"]
    wait_until(lambda: health() == sorted((job, "up") for job in jobs), "all targets up")

    def rules() -> set[tuple[str, str]]:
        groups = stack.prometheus("rules")["groups"]
        return {(rule["name"], rule["health"]) for group in groups for rule in group["rules"]}

    wait_until(lambda: "unknown" not in {health for _, health in rules()}, "all rules evaluated")
    assert {health for _, health in rules()} == {"ok"}
    for query in QUERIES:  # alerts, and Grafana's panels
        stack.prometheus("query", query=filled_in(query.expression))


def test_the_demo_profile_publishes_and_heads_that_the_trainer_certifies_reach_both_workers(stack: Stack) -> None:
    stack.compose("--profile", "demo", "up", "--detach", "--no-recreate", "publisher", seconds=UP_S)

    def stored() -> list[str]:
        return stack.python("dashboard", _LIST).split()

    wait_until(lambda: any(path.endswith("/LATEST") for path in stored()), "a version in the store", seconds=240)
    assert any(path.endswith("/heads.safetensors") for path in stored())
    assert any("/attempts/" in path for path in stored())  # claimed by exclusive create

    def in_force() -> list[str]:
        return [dict(labels)["version"] for labels in stack.query("layercache_heads_info")]

    wait_until(lambda: len(in_force()) == WORKERS and "none" not in in_force(), "both workers on certified heads")
    early = 'sum(layercache_frames_total{exit!="full"})'
    wait_until(lambda: stack.number(early) > 0, "frames that leave early")


def test_the_dashboard_shows_the_stack_in_a_browser(stack: Stack) -> None:
    with browser() as chromium, watched(chromium, stack.dashboard) as page:
        picture = page.locator(".lc-frame img").first
        expect(picture).to_be_visible(timeout=30_000)
        assert picture.evaluate("image => image.naturalWidth") > 0
        before = page.locator(".lc-frame").first.get_attribute("title")
        frames = page.locator(".lc-frame").first
        wait_until(lambda: frames.get_attribute("title") != before, "another frame on the page")
        versions = page.get_by_role("region", name="Versions of heads", exact=True)
        (latest,) = {dict(labels)["version"] for labels in stack.query("layercache_trainer_heads_info")}
        expect(versions).to_contain_text(latest)
        expect(page.get_by_role("region", name="Workers", exact=True)).to_contain_text("9100")


@pytest.mark.parametrize("service", ["worker", "trainer", "dashboard"])
def test_a_container_has_no_rights_and_nothing_to_write_to_but_its_volumes(service: str, stack: Stack) -> None:
    container = stack.containers(service)[0]
    host, user = container["HostConfig"], container["Config"]["User"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False)
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert user == "10001:10001"
    # What the kernel says of every process and lets it do, not what was asked for.
    # A process may end while they are read.
    statuses = stack.compose("exec", "-T", service, "bash", "-c", "cat /proc/[0-9]*/status 2>/dev/null || true")
    processes = [
        dict(line.split(":\t", 1) for line in f"Name:\t{status}".splitlines() if ":\t" in line)
        for status in statuses.split("Name:\t")[1:]
    ]
    # A health check that is just being started is still the engine's own process.
    processes = [process for process in processes if not process["Name"].strip().startswith("runc")]
    assert len(processes) >= 2  # its init, and ours
    for process in processes:
        assert process["Uid"].split() == ["10001"] * 4
        assert (int(process["CapEff"], 16), int(process["CapBnd"], 16), process["NoNewPrivs"].strip()) == (0, 0, "1")
    folders = ["/", "/app", "/opt/venv", "/opt/layercache", "/home/layercache", "/etc", "/models", "/heads", "/tmp"]
    volumes = {"worker": ["/home/layercache/.cache"], "trainer": ["/home/layercache/.cache", "/state"], "dashboard": []}
    program = _WRITE.replace("FOLDERS", json.dumps([*folders, *volumes[service]]))
    assert sorted(stack.python(service, program).split()) == sorted(["/tmp", *volumes[service]])


def on_free_ports(project: str) -> Stack:
    """The project on ports that are free just now."""
    kafka, dashboard, prometheus = free_ports(3)
    return Stack(project, kafka, dashboard, prometheus, WORKERS)


def everything(reader: Reader, count: int) -> list[Prediction]:
    """All predictions so far, once they are ``count`` and no more come: one too many was answered twice."""
    reader.read_until(lambda: len(reader.messages) >= count, f"{count} predictions")
    seen = 0
    while seen < len(reader.messages):
        seen = len(reader.messages)
        reader.read(3.0)
    return reader.predictions()


def repeated(reader: Reader) -> list[str]:
    """Predictions of frames that have several: their frame, when each was made, and the record that says so."""
    answers = list(zip(reader.predictions(), reader.messages, strict=True))
    counts = Counter((one.partition, one.offset) for one, _ in answers)
    return [
        f"frame {one.partition}-{one.offset} at {one.times.predicted_ms}, record {record.partition()}-{record.offset()}"
        for one, record in answers
        if counts[one.partition, one.offset] > 1
    ]
