"""``layercache publish``: pictures to the frames topic."""

import re
import time
from typing import TYPE_CHECKING, Annotated

import typer

from layercache.cli import common
from layercache.cli.options import BOOTSTRAP, SettingOption, with_settings

if TYPE_CHECKING:
    from layercache.schemas.settings import Settings
    from layercache.stream.publishing.publisher import Counts
    from layercache.stream.publishing.sources import PictureSource

_LINE_EVERY_S = 5.0


@with_settings(BOOTSTRAP, SettingOption("topics.frames", ("--topic",), "Topic to publish to."))
def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of pictures (.jpg .jpeg .png .webp .npy, folders in it as well), a zip of them, "
            "one picture, a video file, or `webcam` (`webcam:1` for the second). A URL (s3://, file://, …) of a folder "
            "or a picture publishes references to what lies there.",
            show_default=False,
        ),
    ],
    settings: "Settings",
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Frames per second; by default as fast as the broker takes them.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames.")] = None,
    loop: Annotated[
        bool,
        typer.Option("--loop", help="Begin again at the end, for ever or up to --limit. Each picture certifies once."),
    ] = False,
    key: Annotated[
        str | None,
        typer.Option(
            help="The frames' key: one stream, one key. By default a video's name or `webcam:0`; pictures of "
            "folders and zips have none, and count as independent of each other.",
            show_default=False,
        ),
    ] = None,
    by_reference: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Put pictures below this URL, and publish where they lie: for pictures too large for the topic. "
            "The workers' references.prefixes must allow it.",
            show_default=False,
        ),
    ] = None,
    label_pattern: Annotated[
        str | None,
        typer.Option(
            help="Regular expression whose group finds the true label in a picture's name; for evaluation only.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Publishes pictures as frames. Ends when all have arrived, with exit code 1 where some did not.

    \b
    Example:
      layercache publish photos/ --rate 20
      layercache publish street.mp4 --key gate-3
      layercache publish x-rays/ --by-reference s3://clinic/frames/
      layercache publish s3://clinic/frames/2026-11-24/
      layercache publish test-set.zip --label-pattern '-(\\w+)\\.webp$'
    """
    pattern = label_regex(label_pattern)
    from layercache.stopping import stop_on_signals
    from layercache.stream.kafka.clients import KafkaUnusable
    from layercache.stream.publishing.publisher import Plan, publish
    from layercache.stream.publishing.sources import SourceError

    try:
        opened = _open(source, by_reference, settings)
    except SourceError as error:
        common.fail(f"error: {error}", common.WRONG_USAGE)
    if loop:
        typer.echo(
            "A loop repeats its pictures. Heads learn them, so each certifies once: a short loop opens few exits, and "
            "what is certified is for this stream. See docs/certificate.md.",
            err=True,
        )
    plan = Plan(rate=rate, limit=limit, loop=loop, key=key, label_pattern=pattern)
    with stop_on_signals() as stop, _Display(_expected(opened.total, limit, loop)) as display:
        try:
            counts = publish(settings, opened, plan, stop, display.show)
        except (KafkaUnusable, SourceError) as error:
            display.close()
            common.fail(f"error: {error}")
    _report(counts, settings.topics.frames, display.seconds, label_pattern)
    if stop.is_set():
        raise typer.Exit(common.INTERRUPTED)
    raise typer.Exit(common.OK if counts.whole else common.FAILED)


def _open(source: str, by_reference: str | None, settings: "Settings") -> "PictureSource":
    from layercache.stream.publishing.sources import SourceError, open_source

    prefixes = settings.references.prefixes
    if "://" in source:
        from layercache.stream.publishing.referenced import Stored

        if by_reference is not None:
            raise SourceError(f"{source} is a URL: its pictures are published by reference where they lie")
        return Stored(source, prefixes)
    if by_reference is None:
        return open_source(source, settings.topics.max_record_bytes)
    from layercache.stream.publishing.referenced import Deposited

    return Deposited(open_source(source, settings.worker.max_frame_bytes), by_reference, prefixes)


def label_regex(text: str | None) -> re.Pattern[str] | None:
    """The regular expression of ``--label-pattern``; ends the command unless it is valid and has exactly one group."""
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        common.fail(f"--label-pattern {text}: not a regular expression: {error}", common.WRONG_USAGE)
    if pattern.groups != 1:
        common.fail(
            f"--label-pattern {text}: has {pattern.groups} groups, needs one around the label", common.WRONG_USAGE
        )
    return pattern


def _expected(total: int | None, limit: int | None, loop: bool) -> int | None:
    """How many frames there will be, if known."""
    if loop or total is None:
        return limit
    return total if limit is None else min(total, limit)


def _report(counts: "Counts", topic: str, seconds: float, label_pattern: str | None) -> None:
    rate = counts.delivered / seconds if seconds else 0.0
    typer.echo(f"{counts.delivered:,} frames published to {topic} in {seconds:.1f} s ({rate:,.1f}/s)", err=True)
    for note in counts.notes:
        typer.echo(f"  {note}", err=True)
    lost = counts.published - counts.delivered
    if lost:
        typer.echo(f"not delivered: {lost:,}", err=True)
    if counts.skipped:
        typer.echo(f"skipped: {counts.skipped:,}", err=True)
    if label_pattern is not None and counts.published and not counts.labelled:
        typer.echo(f"--label-pattern {label_pattern} found no label in any picture's name", err=True)


class _Display:
    """A progress bar on a terminal, a line every few seconds elsewhere; both on standard error."""

    def __init__(self, expected: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._expected = expected
        self._begun = time.monotonic()
        self._said = self._begun
        self._progress = Progress(
            TextColumn("publishing"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[trouble]}"),
            console=(console := Console(stderr=True)),
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar = console.is_terminal
        self._task = self._progress.add_task("", total=expected, rate="", trouble="")

    def __enter__(self) -> "_Display":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begun

    def close(self) -> None:
        """Stops drawing on the terminal."""
        self._progress.stop()

    def show(self, counts: "Counts") -> None:
        """Brings the display up to date."""
        if self._bar:
            waiting = counts.published - counts.delivered - counts.failed
            trouble = str(counts.troubles) if waiting and counts.troubles.latest else ""
            rate = f"{counts.delivered / max(self.seconds, 0.001):,.1f}/s"
            self._progress.update(self._task, completed=counts.delivered, rate=rate, trouble=trouble)
        elif time.monotonic() - self._said >= _LINE_EVERY_S:
            self._said = time.monotonic()
            of = f" of {self._expected:,}" if self._expected else ""
            rate = f"{counts.delivered / self.seconds:,.1f}/s"
            typer.echo(f"{counts.delivered:,}{of} frames delivered, {rate}, {self.seconds:.0f} s", err=True)
