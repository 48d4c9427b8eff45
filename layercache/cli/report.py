"""``layercache report``: what exits would save on your own model and frames, as a page to send to a colleague."""

import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from layercache.cli import common
from layercache.cli.options import MODEL, RUNTIME, SettingOption, with_settings
from layercache.cli.publish import label_regex

if TYPE_CHECKING:
    from layercache.report.numbers import Report
    from layercache.schemas.settings import Settings

_BUDGETS = (0.005, 0.01, 0.02, 0.05)
_LINE_EVERY_S = 5.0


@with_settings(
    *MODEL,
    *RUNTIME,
    SettingOption("promise.max_disagreement", help="The budget of the rehearsed stream, as of the trainer."),
    SettingOption("promise.confidence", help="Of every certificate."),
    SettingOption("worker.torch_threads", ("--threads",), "Threads of torch; by default what workers are set to."),
    SettingOption("trainer.seed", help="Of heads, views, sampling and order."),
)
def command(
    frames: Annotated[
        str,
        typer.Option(
            "--frames",
            metavar="PATH",
            help="A folder or a zip of pictures (.jpg .jpeg .png .webp .npy), or a video file (needs the extra video).",
            show_default=False,
        ),
    ],
    settings: "Settings",
    out: Annotated[Path, typer.Option("--out", "-o", help="The page; an earlier one is replaced.")] = Path(
        "layercache-report.html"
    ),
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers as JSON as well.")
    ] = None,
    budget: Annotated[
        list[float] | None,
        typer.Option(
            "--budget",
            min=0.0001,
            max=0.5,
            help="A share of answers that may differ, 0.01 for 1 %; may be repeated. [0.005, 0.01, 0.02, 0.05]",
            show_default=False,
        ),
    ] = None,
    frames_limit: Annotated[int | None, typer.Option(min=1, help="Use so many frames at most.")] = None,
    minutes: Annotated[
        float, typer.Option(min=0.05, help="How long it may take, about: more let heads learn longer.")
    ] = 5.0,
    shuffle: Annotated[
        bool | None,
        typer.Option(
            "--shuffle/--in-order",
            help="Whether to draw the frames' order. By default only where folders have the classes' names.",
            show_default=False,
        ),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="The pictures are one camera's, so many a second: near-copies then count once.",
            show_default=False,
        ),
    ] = None,
    label_pattern: Annotated[
        str | None,
        typer.Option(
            help="Regular expression whose group finds the true class in a picture's name.", show_default=False
        ),
    ] = None,
) -> None:
    """Rehearses Layercache on your model and frames, without Kafka, and writes a page that says what it would save.

    Cuts the model, teaches exits on the frames as a stream, certifies them for several budgets, and counts on held-out
    frames what they save and where they differ from the full model. Ctrl-C ends the stream early and still reports.

    \b
    Example:
      layercache report --model my_model.py:build --frames photos/
      layercache report --model torchvision:resnet50 --weights DEFAULT --frames clip.mp4 --minutes 20
      layercache report --model my_model.py:build --frames test.zip --label-pattern '-(\\w+)\\.webp$' --json report.json
    """
    pattern = label_regex(label_pattern)
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        common.fail(f"the report needs {error.name}: pip install 'layercache[report]'", common.WRONG_USAGE)
    for path in (out, json_file):
        if path is not None and not os.access(path.parent if not path.exists() else path, os.W_OK):
            common.fail(f"{path}: cannot be written; is there such a folder?", common.WRONG_USAGE)

    import logging

    from layercache.early_exit.cutting.cuts import CutError
    from layercache.early_exit.model.loading import ModelError
    from layercache.report import page
    from layercache.report.footage import FrameOptions
    from layercache.report.run import NothingSeen, Options, run
    from layercache.stopping import stop_on_signals
    from layercache.stream.publishing.sources import SourceError

    # Several trainers would log many lines; the page has it all.
    logging.getLogger("layercache.cache_training").setLevel(logging.ERROR)
    reading = FrameOptions(frames, frames_limit, shuffle, settings.trainer.seed, fps, pattern)
    options = Options(reading, tuple(sorted(set(budget or _BUDGETS))), minutes, _command_line())
    with stop_on_signals() as stop, _Display() as display:
        try:
            report = run(settings, options, display, stop)
        except (ModelError, CutError, SourceError) as error:
            display.close()
            common.fail(f"error: {error}", common.WRONG_USAGE)
        except NothingSeen as error:
            display.close()
            common.fail(f"error: {error}")
        display.phase("writing the page")
        page.write(report, out)
        if json_file is not None:
            import msgspec

            json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    _print(report, out)
    raise typer.Exit(common.INTERRUPTED if report.interrupted else common.OK)


def _command_line() -> str:
    """The command that makes this report again, with paths as given."""
    return shlex.join(["layercache", *sys.argv[1:]])


def _print(report: "Report", out: Path) -> None:
    """The page's first lines."""
    from rich.console import Console
    from rich.table import Table

    from layercache.report.words import budget_row, sides, verdict

    console = Console()
    if not console.is_terminal:
        console.width = 200
    console.print(verdict(report), markup=False, soft_wrap=True)
    console.print()
    table = Table(box=None, header_style="bold")
    table.add_column("budget", justify="right")
    for name in ("", "leave at exits", "time saved", "FLOPs saved", "differed"):
        table.add_column(name, justify="left" if not name else "right")
    for budget in report.budgets:
        row = budget_row(budget)
        table.add_row(row.budget, row.state, row.leaves, row.time, row.flops, row.differed)
    console.print(table)
    console.print()
    table = Table(box=None, header_style="bold")
    for name in ("side by side", "frames/s", "× PyTorch", "× best plain", "differed", "and at most"):
        table.add_column(name, justify="left" if name in ("side by side", "and at most") else "right")
    for side in sides(report):
        table.add_row(side.name, side.fps, side.times_pytorch, side.times_plain, side.differed, side.bound)
    console.print(table)
    for finding in report.findings:
        console.print(f"\n{finding.level}: {finding.title}. {finding.text}", markup=False, soft_wrap=True)
    console.print(f"\nReport: {out}", markup=False, soft_wrap=True)


_PHASES = {
    "frames": "the stream: heads learn while they serve",
    "alternative": "what one could run instead: the whole model, compiled",
    "exam": "the exam: frames that the heads have never seen",
    "race": "measuring time with exits and without",
}


class _Display:
    """A line for each part, with a bar on a terminal; both on standard error."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = None if not self._console.is_terminal else self._progress.add_task("", total=None, note="")
        self._said = 0.0

    def __enter__(self) -> "_Display":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops drawing on the terminal."""
        self._progress.stop()

    def phase(self, name: str) -> None:
        """Shows which part begins."""
        name = _PHASES.get(name, name)
        if self._task is None:
            typer.echo(name, err=True)
            self._said = time.monotonic()
            return
        self._progress.reset(self._task, description=name, total=None, note="")

    def progress(self, done: float, note: str = "") -> None:
        """Shows what share of this part is done."""
        if self._task is not None:
            self._progress.update(self._task, total=1.0, completed=min(1.0, done), note=note)
        elif time.monotonic() - self._said >= _LINE_EVERY_S:
            self._said = time.monotonic()
            typer.echo(f"  {done:.0%} {note}".rstrip(), err=True)
