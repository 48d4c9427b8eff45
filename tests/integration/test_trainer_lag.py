"""A trainer that cannot keep up lets records wait on the broker, not in its memory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Producer

from layercache.schemas.distillation import DistillationBatch, DistillationHeader
from layercache.schemas.settings import Topics
from testbed.trainer_process import as_toml
from tests.conftest import Broker
from tests.support.tiny_model import TinyModel
from tests.support.trainer_records import trainer_settings

pytestmark = pytest.mark.one_broker

RECORDS, RECORD_MB = 120, 1
#: What the program below lets the inbox take up; Faust holds 25 records besides, and its client what it fetches.
INBOX_MB, MOST_MB = 8, 60

PROGRAM = f"""
import json, logging, os, sys, time
from pathlib import Path
from layercache.cache_training.service import app, thread
from layercache.schemas.settings import load

logging.basicConfig()
thread._INBOX_BYTES = {INBOX_MB} << 20

def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

class Stuck(thread.TrainingThread):
    "Takes nothing. Once its inbox is full and memory has come to rest, says by how much it grew."

    def run(self) -> None:
        before = latest = resident_mb()
        since = time.monotonic()
        while not self.inbox.full() or time.monotonic() - since < 3:
            time.sleep(0.1)
            now = resident_mb()
            if now > latest + 1:
                latest, since = now, time.monotonic()
        Path(sys.argv[2]).write_text(json.dumps({{"grown_mb": latest - before}}))
        os._exit(0)

settings = load(Path(sys.argv[1]))
sys.exit(app._serve(settings, Stuck(None, None, 3600.0, 1)))
"""


def record(number: int) -> bytes:
    """Of a megabyte that no compression makes smaller."""
    pixels = np.random.default_rng(number).integers(0, 256, (1, 1, 1024, 1024), np.uint8)
    one = np.zeros(1, np.int32)
    header = DistillationHeader(
        model="m", topic="frames", worker="w", heads_version=None, audit_rate=1.0, frame_ids=("f",)
    )
    return DistillationBatch(
        header, pixels, np.zeros((1, 3), np.float32), one.astype(np.uint8), one - 1, one, one,
        one.astype(np.int64) + number, one.astype(np.int64), one.astype(np.int64),
    ).encode()  # fmt: skip


def test_records_wait_on_the_broker(broker: Broker, topics: Topics, tiny_model: TinyModel, tmp_path: Path) -> None:
    settings = trainer_settings(broker.kafka, topics, tiny_model, tmp_path, checkpoint_s=3600.0)
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "message.max.bytes": 5_000_000})
    for number in range(RECORDS):
        producer.produce(topics.distillation, record(number))
        producer.poll(0)
    assert producer.flush(60) == 0
    settings.trainer.state_dir.mkdir()
    config = tmp_path / "trainer.toml"
    config.write_text(as_toml(settings))
    found = tmp_path / "found.json"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, config, found], stderr=subprocess.PIPE, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    grown_mb = json.loads(found.read_text())["grown_mb"]
    assert INBOX_MB <= grown_mb < MOST_MB < RECORDS * RECORD_MB
