"""A worker takes up heads while it runs, and serves the full path rather than heads that it should not."""

import re
from pathlib import Path

import pytest

from layercache.schemas import distillation
from layercache.schemas.settings import Settings
from testbed.waiting import wait_until
from testbed.worker_process import Picture, Reader, publish, reading, running_worker
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


def test_heads_are_taken_up_replaced_and_closed_while_it_runs(settings: Settings, tmp_path: Path) -> None:
    with running_worker(settings, tmp_path) as worker, reading(settings, settings.topics.predictions) as reader:
        send(settings, 20, "none")
        assert set(answers(reader, "none", 20)) == {("red", "full", None, True)}

        first = publish_heads(settings, "v1", "blue")
        worker.wait_for("serving heads v1")
        send(settings, 20, "v1")
        assert set(answers(reader, "v1", 20)) == {("blue", first.exits[0].cut, "v1", False)}

        publish_heads(settings, "v2", "red", audit_rate=0.5)
        worker.wait_for("serving heads v2")
        send(settings, 60, "v2")
        found = answers(reader, "v2", 60)
        assert set(found) == {("red", first.exits[0].cut, "v2", False), ("red", "full", "v2", True)}
        assert 15 <= sum(audited for *_, audited in found) <= 45

        store_of(settings).close("a careful owner")
        worker.wait_for("all exits kept closed by the operator")
        send(settings, 20, "closed")
        assert {(class_, exit_) for class_, exit_, *_ in answers(reader, "closed", 20)} == {("red", "full")}

        text = worker.metrics()
        assert f'layercache_frames_total{{exit="{first.exits[0].cut}"}}' in text
        assert 'layercache_heads_info{version="v2"} 1.0' in text
        assert 'layercache_transactions_total{result="committed"}' in text
        assert worker.stop() == 0


def test_a_version_that_leaves_its_budget_is_closed_by_the_worker_itself(settings: Settings, tmp_path: Path) -> None:
    publish_heads(settings, "bad", "blue", audit_rate=0.5)
    with running_worker(settings, tmp_path) as worker, reading(settings, settings.topics.predictions) as reader:
        worker.wait_for("serving heads bad")
        send(settings, 200, "wrong")
        answers(reader, "wrong", 200)
        worker.wait_for("exceed their budget")
        send(settings, 30, "closed")
        assert {(class_, exit_) for class_, exit_, *_ in answers(reader, "closed", 30)} == {("red", "full")}
        text = worker.metrics()
        assert "layercache_exits_closed 1.0" in text
        for counter in ("class_audits", "class_disagreements"):  # all frames are red, and all exits say blue
            counted = re.findall(rf'^layercache_{counter}_total\{{class="(.*)"\}} (.*)$', text, re.MULTILINE)
            assert [(name, float(value) > 50) for name, value in counted] == [("red", True)]

        good = publish_heads(settings, "good", "red", audit_rate=0.5)
        worker.wait_for("serving heads good")
        send(settings, 30, "good")
        assert ("red", good.exits[0].cut, "good", False) in answers(reader, "good", 30)


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


def test_heads_of_another_model_are_never_served(settings: Settings, tmp_path: Path) -> None:
    publish_heads(settings, "foreign", "blue", model="f00d" * 16)
    with running_worker(settings, tmp_path) as worker, reading(settings, settings.topics.predictions) as reader:
        worker.wait_for("heads foreign were trained for model f00df00df00d")
        send(settings, 10, "foreign")
        assert set(answers(reader, "foreign", 10)) == {("red", "full", None, True)}


def test_corrupt_heads_leave_the_version_before_in_force(settings: Settings, tmp_path: Path) -> None:
    first = publish_heads(settings, "v1", "blue")
    with running_worker(settings, tmp_path) as worker, reading(settings, settings.topics.predictions) as reader:
        worker.wait_for("serving heads v1")
        publish_heads(settings, "v0", "green")
        store = Path(store_of(settings).url.removeprefix("file://"))
        worker.wait_for("serving heads v0")
        (store / "v1" / "heads.safetensors").write_bytes(b"half a file")
        store_of(settings)
        (store / "LATEST").write_text("v1")
        worker.wait_for("is corrupt")
        assert worker.said("still serving heads v0")
        send(settings, 10, "after")
        assert set(answers(reader, "after", 10)) == {("green", first.exits[0].cut, "v0", False)}
        wait_until(lambda: "layercache_store_errors_total 0.0" not in worker.metrics(), "a counted store error")
