"""What the trainer tells Prometheus, and that it is told while the trainer works."""

import asyncio
import math
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families

from layercache.cache_training.service.app import build_app
from layercache.cache_training.service.metrics import TrainerMetrics
from layercache.cache_training.service.state import Checkpoints
from layercache.cache_training.service.thread import TrainingThread
from layercache.cache_training.trainer import OnlineTrainer, Progress
from layercache.early_exit.engine import Engine
from layercache.early_exit.store.head_store import HeadStore, StoreError
from layercache.schemas.manifest import Certificate, Expected, Manifest
from layercache.schemas.settings import Promise, Settings, Trainer
from testbed.waiting import wait_until
from tests.cache_training.streams import answered, pictures, traced
from tests.support.tiny_model import TinyModel

pytestmark = pytest.mark.usefixtures("steady_times")

PROGRESS = Progress(
    audits=900,
    repeated=30,
    views=4000,
    tuning=300,
    certification=250,
    independent=90,
    scenes_outlast=True,
    misses=70,
    lessons=40,
    attempts=2,
    version="v2",
    expected_time_saved=0.5,
    disagreeing_passes=1,
    worst_classes=(),
    worst_keys=(),
)
CLOSED = Manifest(
    version="v2",
    model="3f9a" * 16,
    model_name="tiny",
    created="1970-01-01T00:20:00+00:00",
    reason="unsafe",
    predecessor="v1",
    exits=(),
    audit_rate=1.0,
    certificate=Certificate(
        max_disagreement=0.01, confidence=0.95, attempt=2, error=0.01, frames=500, disagreements=0, p_value=0.006,
        upper_bound=0.009,
    ),
    expected=Expected(hit_rate=0.8, flops_saved=0.6, time_saved=0.5),
)  # fmt: skip


def value(metrics: TrainerMetrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(f"layercache_trainer_{name}", labels)
    assert found is not None, f"no {name} {labels}"
    return found


def test_a_version_whose_exits_are_closed_is_expected_to_save_nothing() -> None:
    metrics = TrainerMetrics()
    metrics.show(PROGRESS, CLOSED)
    assert value(metrics, "heads_info", version="v2", reason="unsafe") == 1
    assert value(metrics, "heads_created_timestamp_seconds") == 1200
    assert value(metrics, "heads_certified_disagreement") == 0.009
    assert value(metrics, "heads_expected", share="time_saved") == 0
    assert value(metrics, "window_frames", use="certification") == 250
    assert value(metrics, "independent_frames") == 90
    assert value(metrics, "scenes_outlast_blocks") == 1


def test_before_the_first_version_there_is_a_series_for_it_all_the_same() -> None:
    metrics = TrainerMetrics()
    metrics.show(PROGRESS, CLOSED)
    metrics.show(PROGRESS, None)
    assert value(metrics, "heads_info", version="none", reason="none") == 1
    assert metrics.registry.get_sample_value(
        "layercache_trainer_heads_info", {"version": "v2", "reason": "unsafe"}
    ) is None  # fmt: skip
    assert math.isnan(value(metrics, "heads_certified_disagreement"))


def test_the_thread_shows_what_it_took_in_and_the_page_serves_it(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = traced(tiny_model)
    store = HeadStore(f"file://{tmp_path / 'heads'}", "tiny")
    trainer = OnlineTrainer(model, store, Promise(max_disagreement=0.05), Trainer(replay_mb=64, ring_mb=64))
    thread = TrainingThread(trainer, Checkpoints(tmp_path / "state"), checkpoint_s=3600, threads=1)
    thread.inbox.put((answered(Engine(model), pictures(20, 0), 0), "distillation-0", 1))
    thread.start()
    wait_until(lambda: value(thread.metrics, "turn_timestamp_seconds") > 0, "a turn")
    assert value(thread.metrics, "audits") == 20
    assert value(thread.metrics, "storage_errors_total") == 0

    def away() -> float:
        raise StoreError("the store is away")

    monkeypatch.setattr(trainer, "work", away)
    wait_until(lambda: value(thread.metrics, "storage_errors_total") > 0, "an error counted")
    monkeypatch.undo()
    thread.stop()
    assert value(thread.metrics, "checkpoint_timestamp_seconds") > 0
    served = text_string_to_metric_families(page(thread))
    assert {family.name for family in served} >= {"layercache_trainer_audits", "process_resident_memory_bytes"}


def page(thread: TrainingThread) -> str:
    """What the app's ``/metrics`` answers."""

    async def asked() -> str:
        app = build_app(Settings(), thread)
        async with TestClient(TestServer(app.web.web_app)) as client:  # type: ignore[attr-defined]  # Faust's driver's
            answer = await client.get("/metrics")
            assert (answer.status, answer.content_type) == (200, "text/plain")
            return await answer.text()

    return asyncio.run(asked())
