"""The streaming part of the demo: processes up, frames through, processes down."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient

from layercache.demo.processes import Child, Children
from layercache.demo.readings import Readings
from layercache.demo.settings import Assets
from layercache.demo.view import View
from layercache.measuring.tally import Tally
from layercache.schemas.settings import Settings
from layercache.stream.kafka.clients import admin_client

#: Starting is slow where torch lies on a cold disk; frames would only wait meanwhile, so going on beats failing.
_READY_DEADLINE_S = 60.0
#: What only looks on may hold up the stream for so long.
_SETTLE_S = 20.0
#: With the publisher done, so long without an answer means that none will come.
_STALL_S = 60.0
_POLL_S = 0.1
#: After the worker has ended, for an answer given twice to turn up.
_AFTERMATH_S = 1.0


class StreamFailed(RuntimeError):
    """The stream did not come through; the message says what happened."""


@dataclass(frozen=True)
class StreamPlan:
    """What to stream, and with which processes."""

    settings: Settings
    settings_file: Path
    assets: Assets
    frames: int
    rate: float


def run(
    plan: StreamPlan,
    children: Children,
    readings: Readings,
    tally: Tally,
    view: View,
    settled: Callable[[], bool] = lambda: True,
) -> None:
    """Streams all frames into ``tally`` and stops the processes.

    The stream begins once worker and trainer are ready, and what runs beside them has ``settled``, as far as that does
    not take long.

    Raises :class:`StreamFailed` where frames stay unanswered or are answered twice, and
    :class:`~layercache.demo.processes.ChildDied`.
    """
    servers = [children.start(name, _command(name, plan)) for name in ("worker", "trainer")]
    with view.step("starting worker and trainer"):
        _wait_until_ready(plan.settings, servers)
        _wait_for(settled)
    publisher = children.start("publisher", _publish(plan))
    _follow(servers, publisher, readings, tally, view)
    with view.step("stopping the processes"):
        children.stop()
    deadline = time.monotonic() + _AFTERMATH_S
    while (left := deadline - time.monotonic()) > 0:
        _read(readings, tally, left)
    if tally.duplicates:
        raise StreamFailed(f"{len(tally.duplicates)} frames were answered twice, e.g. frame {tally.duplicates[0]}")


def _follow(servers: list[Child], publisher: Child, readings: Readings, tally: Tally, view: View) -> None:
    moved_at = time.monotonic()
    while not tally.complete:
        for child in servers:
            child.check()
        publisher.check(may_end=True)
        if _read(readings, tally, _POLL_S) or publisher.exit_code is None:
            moved_at = time.monotonic()
        if time.monotonic() - moved_at > _STALL_S:
            raise StreamFailed(
                f"{tally.frames - tally.answered} of {tally.frames} frames have no answer {_STALL_S:.0f} s after the "
                f"last one came; the end of the worker's log, {servers[0].log}:\n{servers[0].tail()}"
            )
        view.stream(tally.snapshot)
    view.stream(tally.snapshot, last=True)


def _read(readings: Readings, tally: Tally, timeout_s: float) -> bool:
    answers, audits = readings.poll(timeout_s)
    for answer in answers:
        tally.add(answer)
    tally.add_audits(audits)
    return bool(answers)


def _wait_until_ready(settings: Settings, servers: list[Child]) -> None:
    """Returns once both consumer groups have their partitions, so that worker and trainer wait for the first frames."""
    client = admin_client(settings)
    groups = (settings.worker.group_id, settings.trainer.group_id)
    deadline = time.monotonic() + _READY_DEADLINE_S
    while time.monotonic() < deadline:
        for child in servers:
            child.check()
        if all(_is_stable(client, group) for group in groups):
            return
        time.sleep(0.2)


def _wait_for(settled: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SETTLE_S
    while not settled() and time.monotonic() < deadline:
        time.sleep(0.1)


def _is_stable(client: AdminClient, group: str) -> bool:
    try:
        described = client.describe_consumer_groups([group], request_timeout=5.0)[group].result()
    except KafkaException:  # there is no such group yet
        return False
    return bool(described.state == ConsumerGroupState.STABLE)


def _command(name: str, plan: StreamPlan) -> list[str]:
    return [sys.executable, "-m", "layercache", name, "--config", str(plan.settings_file)]


def _publish(plan: StreamPlan) -> list[str]:
    return [
        *_command("publish", plan),
        str(plan.assets.frames),
        *("--rate", str(plan.rate)),
        *("--limit", str(plan.frames)),
        *("--label-pattern", plan.assets.label_pattern),
    ]
