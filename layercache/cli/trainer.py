"""``layercache trainer``."""

from pathlib import Path
from typing import Annotated

import typer

from layercache.cli import common


def command(
    config: common.Config = None,
    bootstrap: common.Bootstrap = None,
    model: common.Model = None,
    weights: common.Weights = None,
    metadata: common.Metadata = None,
    device: common.Device = None,
    dtype: common.Dtype = None,
    store_url: common.StoreUrl = None,
    max_disagreement: Annotated[
        float | None, typer.Option(help="How often an exit may differ from the full model's answer.")
    ] = None,
    confidence: Annotated[float | None, typer.Option(help="Probability that the promise holds for life.")] = None,
    group_id: Annotated[str | None, typer.Option(help="Consumer group (the Faust app's id).")] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Local folder of its restartable state.")] = None,
    torch_threads: Annotated[int | None, typer.Option(help="Threads of torch.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of initial weights, views and sampling.")] = None,
    web_port: Annotated[
        int | None, typer.Option(help="Port of the Prometheus metrics and of Faust's health endpoint.")
    ] = None,
    kafka_options: common.KafkaOptions = None,
) -> None:
    """Learns from full-path results and publishes certified heads. Ends on SIGTERM or Ctrl-C, goes on where it was.

    \b
    Example:
      layercache trainer --model torchvision:resnet18 --weights DEFAULT --max-disagreement 0.01
      layercache trainer --config layercache.toml --state-dir /var/lib/layercache
    """
    settings = common.load_settings(
        config,
        kafka=common.kafka_overrides(bootstrap, kafka_options),
        model={"spec": model, "weights": weights, "metadata": metadata, "device": device, "dtype": dtype},
        store={"url": store_url},
        promise={"max_disagreement": max_disagreement, "confidence": confidence},
        trainer={
            "group_id": group_id,
            "state_dir": state_dir,
            "torch_threads": torch_threads,
            "seed": seed,
            "web_port": web_port,
        },
    )
    common.end_on_sigterm()
    from layercache.cache_training.service.app import run

    raise typer.Exit(run(settings))
