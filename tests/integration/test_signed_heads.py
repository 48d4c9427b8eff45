"""A worker with a signing key takes up heads that are signed with it, and no others."""

from pathlib import Path

import pytest

from layercache.schemas.prediction import FULL
from layercache.schemas.settings import Settings
from testbed.waiting import wait_until
from testbed.worker_process import Picture, WorkerProcess, publish, reading, running_worker
from tests.support.heads import publish_heads, store_of
from tests.support.pictures import coloured, encode


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_unsigned_heads_mean_the_full_path_until_somebody_with_the_key_signs_them(
    worker_settings: Settings, tmp_path: Path
) -> None:
    key = tmp_path / "signing-key"
    key.write_text("k" * 64)
    unsigned = worker_settings.store
    signed = unsigned.model_copy(update={"signing_key_file": key})
    settings = worker_settings.model_copy(
        update={"store": signed, "worker": worker_settings.worker.model_copy(update={"metrics_port": 0})}
    )
    manifest = publish_heads(worker_settings, "v1", "blue")  # a store that somebody else may write to
    with running_worker(settings, tmp_path) as worker, reading(settings, settings.topics.predictions) as reader:
        worker.wait_for("v1 is not signed: it is not used")
        publish(settings, [red(0)])
        reader.read_count(1)
        assert refused(worker) == 1
        store_of(settings).sign("v1")
        worker.wait_for("serving heads v1")
        publish(settings, [red(1)])
        reader.read_count(2)
        publish_heads(worker_settings, "v2", "green")
        worker.wait_for("v2 is not signed: it is not used")
        publish(settings, [red(2)])
        reader.read_count(3)
        assert refused(worker) == 2
    answers = {prediction.id: (prediction.class_name, prediction.exit) for prediction in reader.predictions()}
    assert answers == {"0": ("red", FULL), "1": ("blue", manifest.exits[0].cut), "2": ("red", FULL)}
    assert "k" * 64 not in worker.log.read_text()


def red(number: int) -> Picture:
    return Picture(encode(coloured("red", noise=number), "PNG"), id=str(number))


def refused(worker: WorkerProcess) -> float:
    """How many versions the worker has refused."""
    name = "layercache_heads_refused_total "
    wait_until(lambda: name in worker.metrics(), name)
    return float(worker.metrics().split(name)[-1].split("\n")[0])
