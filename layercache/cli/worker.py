"""``layercache worker``."""

import os
from typing import TYPE_CHECKING

import typer

from layercache.cli import common
from layercache.cli.options import BOOTSTRAP, MODEL, RUNTIME, STORE, with_settings

if TYPE_CHECKING:
    from layercache.schemas.settings import Settings


@with_settings(
    BOOTSTRAP,
    *MODEL,
    *RUNTIME,
    STORE,
    "worker.mode",
    "worker.delivery",
    "worker.group_id",
    "worker.worker_id",
    "worker.max_batch",
    "worker.max_wait_ms",
    "worker.decode_threads",
    "worker.torch_threads",
    "worker.metrics_port",
)
def command(settings: "Settings") -> None:
    """Answers frames with predictions; takes up new heads while it runs. Ends on SIGTERM or Ctrl-C.

    \b
    Example:
      layercache worker --model torchvision:resnet18 --weights DEFAULT --bootstrap localhost:9092
      layercache worker --model my_model.py:build --weights my_model.safetensors --mode shadow --metrics-port 9100
    """
    common.end_on_sigterm()
    from layercache.stream.worker.service import UNFINISHED, run

    code = run(settings)
    if code == UNFINISHED:
        os._exit(code)  # a normal exit would wait for the thread that is still answering
    raise typer.Exit(code)
