"""The job on Quix Streams: frame by frame, or in micro-batches; at least once or exactly once."""

import base64
from typing import Any

from confluent_kafka import Producer
from quixstreams import Application
from quixstreams.sinks.base import BatchingSink, SinkBatch

from benchmarks.pipeline.peers.job import Config, Job, build_job, frame_id

#: Frames that wait for a checkpoint at most: a sink's batch is written when a checkpoint comes.
_CHECKPOINT_FRAMES = 512


def main() -> None:
    config = Config.from_arguments()
    job = build_job(config)
    app = Application(
        broker_address=config.servers,
        consumer_group=config.group,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once" if config.exactly_once else "at-least-once",
        commit_interval=config.commit_interval_ms / 1000,
        commit_every=_CHECKPOINT_FRAMES if config.batched and not config.exactly_once else 0,
        state_dir=config.state_dir,
        consumer_extra_config={"fetch.queue.backoff.ms": 2, "fetch.message.max.bytes": 5_000_000},
        loglevel="WARNING",
    )
    frames = app.topic(config.frames, key_deserializer="bytes", value_deserializer="bytes")
    predictions = app.topic(config.predictions, key_serializer="bytes", value_serializer="bytes")
    stream: Any = app.dataframe(frames)
    if not config.batched:
        stream = stream.apply(
            lambda value, key, timestamp, headers: job.answer([value], [frame_id(headers)])[0], metadata=True
        )
        stream.to_topic(predictions)
    elif config.exactly_once:
        # What a window holds is kept as JSON, and windows are per key.
        stream = stream.apply(
            lambda value, key, timestamp, headers: [frame_id(headers), base64.b64encode(value).decode()], metadata=True
        )
        stream = stream.tumbling_count_window(config.batch).collect().final()
        stream = stream.apply(lambda window: _answer(job, window["value"]), expand=True)
        stream.to_topic(predictions)
    else:
        stream.sink(_PredictingSink(config, job))
    app.run()


def _answer(job: Job, window: list[tuple[str, str]]) -> list[bytes]:
    return job.answer([base64.b64decode(value) for _, value in window], [name for name, _ in window])


class _PredictingSink(BatchingSink):  # type: ignore[misc]  # known in the peers' environment alone
    """Answers in micro-batches what came since the last checkpoint."""

    def __init__(self, config: Config, job: Job) -> None:
        super().__init__()
        self._config = config
        self._job = job
        self._producer = Producer({"bootstrap.servers": config.servers, "enable.idempotence": True, "linger.ms": 2})

    def write(self, batch: SinkBatch) -> None:
        for chunk in batch.iter_chunks(self._config.batch):
            items = list(chunk)
            answers = self._job.answer([item.value for item in items], [frame_id(item.headers) for item in items])
            for item, prediction in zip(items, answers, strict=True):
                self._producer.produce(self._config.predictions, prediction, item.key)
            self._producer.poll(0)

    def flush(self) -> None:
        super().flush()
        left = self._producer.flush(30)
        if left:
            raise RuntimeError(f"{left} predictions were not delivered")


if __name__ == "__main__":
    main()
