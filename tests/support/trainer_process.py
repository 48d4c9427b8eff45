"""A real trainer as a child process, and records for it to learn from."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import Producer

from early_exit.engine import Engine
from early_exit.store import HeadStore, model_folder
from schemas.settings import Kafka, Promise, Settings, Store, Topics, Trainer
from tests.cache_training.streams import answered, pictures, traced
from tests.support.tiny_model import TinyModel


def trainer_settings(kafka: Kafka, topics: Topics, model: TinyModel, folder: Path, checkpoint_s: float) -> Settings:
    """Of a trainer with a group, a store and a state of its own in ``folder``."""
    return Settings(
        kafka=kafka,
        topics=topics,
        model=model.settings,
        promise=Promise(max_disagreement=0.05),
        store=Store(url=f"file://{folder / 'heads'}"),
        trainer=Trainer(
            group_id=f"trainer-{topics.distillation}",
            state_dir=folder / "state",
            checkpoint_s=checkpoint_s,
            replay_mb=64,
            ring_mb=64,
        ),
    )


def folder_of(model: TinyModel) -> str:
    """The name of the model's folder, in the store and in the trainer's state."""
    classifier = traced(model).classifier
    return model_folder(classifier.name, classifier.fingerprint)


def store_of(settings: Settings, model: TinyModel) -> HeadStore:
    """The store that the trainer of these settings writes to."""
    return HeadStore(settings.store.url, folder_of(model))


def produce_records(
    settings: Settings, model: TinyModel, frames: int, first_offset: int = 0, transactional: bool = False
) -> None:
    """Puts ``frames`` answered frames on the distillation topic, 50 a record, as a worker would.

    Transactional: each record in a transaction of its own, whose marker takes an offset.
    """
    engine = Engine(traced(model))
    config = {"bootstrap.servers": settings.kafka.bootstrap_servers, "compression.type": "zstd"}
    producer = Producer(config | ({"transactional.id": settings.topics.distillation} if transactional else {}))
    if transactional:
        producer.init_transactions(30)
    for start in range(first_offset, first_offset + frames, 50):
        batch = answered(engine, pictures(50, seed=start), start)
        if transactional:
            producer.begin_transaction()
        producer.produce(settings.topics.distillation, batch.encode(), key=batch.header.model.encode())
        if transactional:
            producer.commit_transaction(30)
    assert producer.flush(30) == 0


@contextmanager
def running_trainer(settings: Settings, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`layercache trainer` with these settings; killed at the end if it still runs. Its log is ``trainer.log``."""
    config = folder / "trainer.toml"
    config.write_text(as_toml(settings))
    with (folder / "trainer.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "layercache", "trainer", "--config", str(config)], stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait(30)


def as_toml(settings: Settings) -> str:
    """The settings as the file that ``--config`` reads."""
    lines: list[str] = []
    for section, values in settings.model_dump(mode="json").items():
        lines.append(f"[{section}]")
        tables = {name: value for name, value in values.items() if isinstance(value, dict)}
        lines += [
            f"{name} = {json.dumps(value)}"
            for name, value in values.items()
            if name not in tables and value is not None
        ]
        for name, table in tables.items():
            lines.append(f"[{section}.{name}]")
            lines += [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"
