"""Settings for a trainer of a test, its store, and records for it to learn from."""

from pathlib import Path

from confluent_kafka import Producer

from layercache.early_exit.engine import Engine
from layercache.early_exit.store.head_store import HeadStore, model_folder
from layercache.schemas.settings import Kafka, Promise, Settings, Store, Topics, Trainer
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
