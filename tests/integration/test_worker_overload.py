"""A backlog opens a worker's exits wider until it is gone, and every prediction says by which budget it was made."""

from pathlib import Path

import pytest

from layercache.schemas.prediction import FULL, Prediction
from layercache.schemas.settings import Promise, Settings
from testbed.worker_process import Picture, Reader, publish, reading, running_worker
from tests.support.heads import publish_heads
from tests.support.manifests import overload
from tests.support.pictures import coloured, encode

pytestmark = pytest.mark.one_broker

#: At a tenth of a millisecond each this is more work than passes between two looks at the lag.
BACKLOG = 8000
#: No score reaches this, and every score that.
NEVER, ALWAYS = 1.1, 0.0


@pytest.fixture
def settings(worker_settings: Settings) -> Settings:
    worker = worker_settings.worker.model_copy(update={"metrics_port": 0, "target_lag_s": 0.05})
    promise = Promise(overload_max_disagreement=0.03)
    return worker_settings.model_copy(update={"worker": worker, "promise": promise})


def answers(settings: Settings, reader: Reader, prefix: str, count: int) -> list[Prediction]:
    """Publishes ``count`` frames, and returns their answers in order."""
    red = encode(coloured("red"), "PNG")
    publish(settings, [Picture(red, id=f"{prefix}-{n}", key="camera") for n in range(count)])
    before = len(reader.messages)
    reader.read_until(lambda: len(reader.messages) >= before + count, f"{count} answers to {prefix}")
    return sorted(
        (one for one in reader.predictions() if one.id.startswith(prefix)), key=lambda one: int(one.id.split("-")[1])
    )


def test_a_backlog_is_answered_by_the_larger_budget_and_says_so(settings: Settings, tmp_path: Path) -> None:
    heads = publish_heads(settings, "v1", "red", threshold=NEVER, overload=overload((ALWAYS,), 0.03))
    early = heads.exits[0].cut
    with running_worker(settings, tmp_path) as worker, reading(settings, settings.topics.predictions) as reader:
        worker.wait_for("wider under overload")
        few = answers(settings, reader, "few", 8)
        assert {(one.exit, one.budget) for one in few} == {(FULL, "normal")}

        many = answers(settings, reader, "many", BACKLOG)
        assert {(one.exit, one.budget, one.max_disagreement, one.class_name) for one in many} == {
            (FULL, "normal", 0.01, "red"),
            (early, "overload", 0.03, "red"),
        }
        assert many[0].budget == "normal"  # nobody is behind before there is a backlog

        worker.wait_for("no longer behind")
        after = answers(settings, reader, "after", 8)
        assert {(one.exit, one.budget) for one in after} == {(FULL, "normal")}
        wider = sum(one.budget == "overload" for one in many)
        text = worker.metrics()
        assert f"layercache_overload_frames_total {float(wider)}" in text
        assert "layercache_overload 0.0" in text
        assert worker.stop() == 0
