"""``layercache worker``."""

import os
from enum import StrEnum
from typing import Annotated

import typer

from layercache.cli import common


class Mode(StrEnum):
    """Whether exits answer."""

    serve = "serve"
    shadow = "shadow"


class Delivery(StrEnum):
    """The delivery guarantee."""

    exactly_once = "exactly_once"
    at_least_once = "at_least_once"


def command(
    config: common.Config = None,
    bootstrap: common.Bootstrap = None,
    model: common.Model = None,
    weights: common.Weights = None,
    metadata: common.Metadata = None,
    device: common.Device = None,
    dtype: common.Dtype = None,
    store_url: common.StoreUrl = None,
    mode: Annotated[
        Mode | None, typer.Option(help="shadow: exits are scored, learnt and certified but never served.")
    ] = None,
    delivery: Annotated[Delivery | None, typer.Option(help="Delivery guarantee.")] = None,
    group_id: Annotated[str | None, typer.Option(help="Consumer group; workers of one group share the frames.")] = None,
    worker_id: Annotated[str | None, typer.Option(help="A name that stays with this replica.")] = None,
    max_batch: Annotated[int | None, typer.Option(help="Frames per micro-batch at most.")] = None,
    max_wait_ms: Annotated[float | None, typer.Option(help="How long a frame waits for its micro-batch.")] = None,
    decode_threads: Annotated[int | None, typer.Option(help="Threads that decode pictures.")] = None,
    torch_threads: Annotated[int | None, typer.Option(help="Threads of torch.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Port of the Prometheus metrics; 0 for any.")] = None,
    kafka_options: common.KafkaOptions = None,
) -> None:
    """Answers frames with predictions; takes up new heads while it runs. Ends on SIGTERM or Ctrl-C.

    \b
    Example:
      layercache worker --model torchvision:resnet18 --weights DEFAULT --bootstrap localhost:9092
      layercache worker --model my_model.py:build --weights my_model.safetensors --mode shadow --metrics-port 9100
    """
    settings = common.load_settings(
        config,
        kafka=common.kafka_overrides(bootstrap, kafka_options),
        model={"spec": model, "weights": weights, "metadata": metadata, "device": device, "dtype": dtype},
        store={"url": store_url},
        worker={
            "mode": mode,
            "delivery": delivery,
            "group_id": group_id,
            "worker_id": worker_id,
            "max_batch": max_batch,
            "max_wait_ms": max_wait_ms,
            "decode_threads": decode_threads,
            "torch_threads": torch_threads,
            "metrics_port": metrics_port,
        },
    )
    common.end_on_sigterm()
    from layercache.stream.worker.service import UNFINISHED, run

    code = run(settings)
    if code == UNFINISHED:
        os._exit(code)  # Python's own end would wait for the thread that still answers
    raise typer.Exit(code)
