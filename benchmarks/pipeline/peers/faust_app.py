"""The job on Faust: an agent per frame, or one that takes micro-batches. At least once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import faust

from benchmarks.pipeline.peers.job import Config, build_job, frame_id


def main() -> None:
    config = Config.from_arguments()
    job = build_job(config)
    app = faust.App(
        config.group,
        broker=f"kafka://{config.servers}",
        store="memory://",
        datadir=config.state_dir,
        consumer_auto_offset_reset="earliest",
        broker_commit_interval=config.commit_interval_ms / 1000,
        topic_allow_declare=False,
        topic_disable_leader=True,
        key_serializer="raw",
        value_serializer="raw",
        web_enabled=False,
    )
    frames = app.topic(config.frames, key_type=bytes, value_type=bytes)
    predictions = app.topic(config.predictions, key_type=bytes, value_type=bytes)

    async def one_by_one(stream: Any) -> AsyncIterator[None]:
        async for event in stream.events():
            [prediction] = job.answer([event.value], [frame_id(event.message.headers)])
            await predictions.send(key=event.key, value=prediction)
            yield

    async def batched(stream: Any) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        async for events in stream.take_events(config.batch, within=config.max_wait_ms / 1000):
            values = [event.value for event in events]
            ids = [frame_id(event.message.headers) for event in events]
            # in a thread, so that Kafka's heartbeats and fetches go on meanwhile
            answers = await loop.run_in_executor(None, job.answer, values, ids)
            for event, prediction in zip(events, answers, strict=True):
                await predictions.send(key=event.key, value=prediction)
            yield

    app.agent(frames)(batched if config.batched else one_by_one)
    app.Worker(loglevel="WARNING").execute_from_commandline()


if __name__ == "__main__":
    main()
