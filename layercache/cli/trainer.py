"""``layercache trainer``."""

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
    "promise.max_disagreement",
    "promise.confidence",
    "trainer.group_id",
    "trainer.state_dir",
    "trainer.torch_threads",
    "trainer.seed",
    "trainer.web_port",
)
def command(settings: "Settings") -> None:
    """Learns from full-path results and publishes certified heads. Ends on SIGTERM or Ctrl-C, goes on where it was.

    \b
    Example:
      layercache trainer --model torchvision:resnet18 --weights DEFAULT --max-disagreement 0.01
      layercache trainer --config layercache.toml --state-dir /var/lib/layercache
    """
    common.end_on_sigterm()
    from layercache.cache_training.service.app import run

    raise typer.Exit(run(settings))
