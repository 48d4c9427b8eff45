"""``layercache watch``: shows predictions as they arrive."""

import os
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layercache.cli import common
from layercache.cli.options import BOOTSTRAP, with_settings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from layercache.schemas.prediction import Prediction
    from layercache.schemas.settings import Settings
    from layercache.stream.watching import Tally

_ROWS = 15
_NAMED_RECORDS = 5


@with_settings(BOOTSTRAP)
def command(
    settings: "Settings",
    topic: Annotated[
        str | None, typer.Option(help="Topic to watch; by default the predictions.", show_default=False)
    ] = None,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Begin with the oldest that the topic still has.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Each as one line of JSON, as it is on the topic.")] = False,
    dead_letters: Annotated[
        bool, typer.Option("--dead-letters", help="Watch the frames that could not be answered, and why.")
    ] = False,
) -> None:
    """Shows predictions live, and how many frames leave early. Takes nothing away from other readers.

    \b
    Example:
      layercache watch
      layercache watch --json --from-beginning --limit 100 | jq -r .class_name
      layercache watch --dead-letters
    """
    from layercache.stopping import stop_on_signals
    from layercache.stream.kafka.clients import KafkaUnusable
    from layercache.stream.kafka.following import follow

    name = topic or (settings.topics.dead_letters if dead_letters else settings.topics.predictions)
    show: _Show = _DeadLetters(as_json) if dead_letters else _Json() if as_json else _predictions()

    def ready(partitions: int) -> None:
        where = f"{name} at {settings.kafka.bootstrap_servers} ({partitions} partitions)"
        typer.echo(f"watching {where}, Ctrl-C ends", err=True)

    with stop_on_signals() as stop:
        try:
            shown = 0
            with show:
                for message in follow(settings, name, stop, from_beginning, ready):
                    shown += message is not None and show.take(message)
                    show.refresh()
                    if shown == limit:
                        return
        except KafkaUnusable as error:
            common.fail(f"error: {error}")
        except BrokenPipeError:
            # `| head` has closed the pipe; the interpreter would fail once more when it closes standard output
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
    raise typer.Exit(common.INTERRUPTED)


class _Show:
    """Shows records."""

    refused = 0

    def __enter__(self) -> "_Show":
        return self

    def __exit__(self, *error: object) -> None:
        if self.refused > _NAMED_RECORDS:
            typer.echo(f"left out: {self.refused:,} records", err=True)

    def take(self, message: Any) -> bool:
        """Shows a record; False if another program wrote it and it is not what the topic should hold."""
        raise NotImplementedError

    def refresh(self) -> None:
        """The loop calls this often, even without a new record."""

    def refuse(self, message: Any, why: object) -> bool:
        """Counts a record that another program wrote, and names the first few."""
        self.refused += 1
        if self.refused <= _NAMED_RECORDS:
            typer.echo(f"{message.topic()}-{message.partition()}-{message.offset()}: left out: {why}", err=True)
        return False


class _Predictions(_Show):
    """Lines."""

    def take(self, message: Any) -> bool:
        import msgspec

        from layercache.schemas import prediction

        try:
            self.add(prediction.decoder.decode(message.value() or b""), message.value())
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return self.refuse(message, f"not a prediction: {error}")
        return True

    def add(self, prediction: "Prediction", value: bytes) -> None:
        typer.echo("\t".join(_cells(prediction)))
        sys.stdout.flush()


class _Json(_Predictions):
    """Lines of JSON."""

    def add(self, prediction: "Prediction", value: bytes) -> None:
        from layercache.stream.watching import json_line

        sys.stdout.buffer.write(json_line(value) + b"\n")
        sys.stdout.buffer.flush()


class _DeadLetters(_Show):
    """One line for each."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def take(self, message: Any) -> bool:
        import msgspec

        from layercache.stream.frames.envelope import shown
        from layercache.stream.watching import read_dead_letter

        try:
            letter = read_dead_letter(message)
        except msgspec.MsgspecError as error:
            return self.refuse(message, f"not a dead letter: {error}")
        if self._as_json:
            typer.echo(msgspec.json.encode(letter).decode())
        else:
            typer.echo(f"{shown(letter.id)}\t{letter.reason}\t{shown(letter.message)}")
        sys.stdout.flush()
        return True


class _Table(_Predictions):
    """On a terminal: a table of the latest predictions, and totals of all."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        from layercache.stream.watching import Tally

        self._latest: deque[Prediction] = deque(maxlen=_ROWS)
        self._tally = Tally()
        self._live = Live(console=Console(), get_renderable=self._render, refresh_per_second=4)

    def __enter__(self) -> "_Show":
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()
        super().__exit__(*error)

    def add(self, prediction: "Prediction", value: bytes) -> None:
        self._latest.append(prediction)
        self._tally.add(prediction, time.monotonic())

    def _render(self) -> "RenderableType":
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table

        table = Table("frame", "label", "class", "confidence", "exit", "audited", box=None, header_style="bold")
        for prediction in list(self._latest):
            table.add_row(*(escape(cell) for cell in _cells(prediction)))
        return Group(table, "", _summary(self._tally))


def _predictions() -> _Show:
    return _Table() if sys.stdout.isatty() else _Predictions()


def _cells(prediction: "Prediction") -> tuple[str, ...]:
    from layercache.stream.frames.envelope import shown

    return (
        shown(prediction.id),
        str(prediction.label),
        prediction.class_name,
        f"{prediction.confidence:.3f}",
        prediction.exit,
        "audited" if prediction.audited else "",
    )


def _summary(tally: "Tally") -> str:
    exits = ", ".join(f"{name} {count:,}" for name, count in tally.exits.most_common())
    return (
        f"{tally.total:,} predictions, {tally.per_second():,.1f}/s, hit rate {tally.hit_rate:.1%} "
        f"of the latest {min(tally.total, tally.window):,}, {tally.audited:,} audited\n{exits}"
    )
