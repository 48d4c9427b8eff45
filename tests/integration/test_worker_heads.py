"""A worker takes up heads while it runs, and serves the full path rather than heads that it should not."""

import re
from pathlib import Path

import pytest

from layercache.schemas import distillation
from layercache.schemas.settings import Settings
from testbed.waiting import wait_until
from testbed.worker_process import Picture, Reader, WorkerProcess, publish, reading, running_worker
from tests.support.heads import publish_heads, store_of
from tests.support.pictures import coloured, encode

pytestmark = pytest.mark.one_broker


def send(settings: Settings, count: int, prefix: str) -> None:
    publish(settings, [Picture(encode(coloured("red", noise=n), "PNG"), id=f"{prefix}-{n}") for n in range(count)])


def answers(reader: Reader, prefix: str, count: int) -> list[tuple[str, str, str | None, bool]]:
    """(class, exit, version, audited) of the frames sent under ``prefix``."""

    def there() -> list[tuple[str, str, str | None, bool]]:
        return [
            (one.class_name, one.exit, one.heads_version, one.audited)
            for one in reader.predictions()
            if one.id.startswith(prefix)
        ]

    reader.read_until(lambda: len(there()) >= count, f"{count} answers to {prefix}")
    return there()


@pytest.fixture
def settings(worker_settings: Settings) -> Settings:
    worker = worker_settings.worker.model_copy(update={"metrics_port": 0})
    return worker_settings.model_copy(update={"worker": worker})


def test_heads_are_taken_up_replaced_refused_and_closed_while_it_runs(settings: Settings, tmp_path: Path) -> None:
    """One worker for all of it: whatever the store holds, the worker serves what it should, and goes on."""
    with running_worker(settings, tmp_path) as worker, reading(settings, settings.topics.predictions) as reader:
        send(settings, 20, "none")
        assert set(answers(reader, "none", 20)) == {("red", "full", None, True)}

        first = publish_heads(settings, "v1", "blue")
        cut = first.exits[0].cut
        worker.wait_for("serving heads v1")
        send(settings, 20, "v1")
        assert set(answers(reader, "v1", 20)) == {("blue", cut, "v1", False)}

        publish_heads(settings, "v2", "red", audit_rate=0.5)
        worker.wait_for("serving heads v2")
        send(settings, 60, "v2")
        found = answers(reader, "v2", 60)
        assert set(found) == {("red", cut, "v2", False), ("red", "full", "v2", True)}
        assert 15 <= sum(audited for *_, audited in found) <= 45
        text = worker.metrics()
        assert f'layercache_frames_total{{exit="{cut}"}}' in text
        assert 'layercache_heads_info{version="v2"} 1.0' in text
        assert 'layercache_transactions_total{result="committed"}' in text

        check_corrupt_heads_leave_the_version_before(worker, settings, reader, cut)
        check_heads_of_another_model_are_never_served(worker, settings, reader)
        check_a_version_that_leaves_its_budget_is_closed(worker, settings, reader, cut)

        store_of(settings).close("a careful owner")
        worker.wait_for("all exits kept closed by the operator")
        send(settings, 20, "closed")
        assert {(class_, exit_) for class_, exit_, *_ in answers(reader, "closed", 20)} == {("red", "full")}
        assert worker.stop() == 0


def check_corrupt_heads_leave_the_version_before(
    worker: WorkerProcess, settings: Settings, reader: Reader, cut: str
) -> None:
    publish_heads(settings, "v0", "green")
    worker.wait_for("serving heads v0")
    store = Path(store_of(settings).url.removeprefix("file://"))
    (store / "v1" / "heads.safetensors").write_bytes(b"half a file")
    (store / "LATEST").write_text("v1")
    worker.wait_for("is corrupt")
    assert worker.said("still serving heads v0")
    send(settings, 10, "after")
    assert set(answers(reader, "after", 10)) == {("green", cut, "v0", False)}
    wait_until(lambda: "layercache_store_errors_total 0.0" not in worker.metrics(), "a counted store error")


def check_heads_of_another_model_are_never_served(worker: WorkerProcess, settings: Settings, reader: Reader) -> None:
    publish_heads(settings, "foreign", "blue", model="f00d" * 16)
    worker.wait_for("heads foreign were trained for model f00df00df00d")
    send(settings, 10, "foreign")
    # No trainer is there, so that by now not every frame need be an audit.
    assert {found[:3] for found in answers(reader, "foreign", 10)} == {("red", "full", None)}


def check_a_version_that_leaves_its_budget_is_closed(
    worker: WorkerProcess, settings: Settings, reader: Reader, cut: str
) -> None:
    """By the worker itself, which takes up the next version."""

    def counted(kind: str) -> dict[str, float]:
        found = re.findall(rf'^layercache_{kind}_total\{{class="(.*)"\}} (.*)$', worker.metrics(), re.MULTILINE)
        return {name: float(value) for name, value in found}

    before = [counted(kind).get("red", 0.0) for kind in ("class_audits", "class_disagreements")]
    publish_heads(settings, "bad", "blue", audit_rate=0.5)
    worker.wait_for("serving heads bad")
    send(settings, 200, "wrong")
    answers(reader, "wrong", 200)
    worker.wait_for("exceed their budget")
    send(settings, 30, "alarmed")
    assert {(class_, exit_) for class_, exit_, *_ in answers(reader, "alarmed", 30)} == {("red", "full")}
    assert "layercache_exits_closed 1.0" in worker.metrics()
    for kind, already in zip(("class_audits", "class_disagreements"), before, strict=True):
        now = counted(kind)  # all frames are red, and all exits say blue
        assert (list(now), now["red"] - already > 50) == (["red"], True)

    publish_heads(settings, "good", "red", audit_rate=0.5)
    worker.wait_for("serving heads good")
    send(settings, 30, "good")
    assert ("red", cut, "good", False) in answers(reader, "good", 30)


def test_shadow_mode_serves_the_model_and_reports_the_exits(settings: Settings, tmp_path: Path) -> None:
    shadow = settings.model_copy(update={"worker": settings.worker.model_copy(update={"mode": "shadow"})})
    publish_heads(shadow, "v1", "blue", audit_rate=0.5)
    with running_worker(shadow, tmp_path) as worker, reading(shadow, shadow.topics.distillation) as reader:
        worker.wait_for("serving heads v1")
        send(shadow, 60, "shadow")
        with reading(shadow, shadow.topics.predictions) as predictions:
            found = answers(predictions, "shadow", 60)
        assert {(class_, exit_) for class_, exit_, *_ in found} == {("red", "full")}
        audits = sum(audited for *_, audited in found)

        def taught() -> list[distillation.DistillationBatch]:
            return [distillation.decode(message.value() or b"") for message in reader.messages]

        reader.read_until(lambda: sum(map(len, taught())) >= audits, "a record of the audits")
        assert sum(map(len, taught())) == audits  # frames that would have left teach nothing, as when served
        assert all((record.live_exit == 0).all() and (record.live_label == 2).all() for record in taught())
