"""``layercache topics create``."""

from typing import TYPE_CHECKING, Annotated

import typer

from layercache.cli import common
from layercache.cli.options import BOOTSTRAP, with_settings

if TYPE_CHECKING:
    from layercache.schemas.settings import Settings

app = typer.Typer(no_args_is_help=True, help="The topics that Layercache needs.")


@app.callback()
def topics_command() -> None:
    """The topics that Layercache needs: frames, predictions, distillation, dead letters."""


@app.command("create")
@with_settings(BOOTSTRAP, "topics.partitions", "topics.replication")
def create_command(
    settings: "Settings",
    wait: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="How long to wait for the broker, or for enough brokers."),
    ] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="What became of each topic, as JSON.")] = False,
) -> None:
    """Creates the topics, with the sizes and retention of the settings. Those that exist are left as they are.

    \b
    Example:
      layercache topics create
      layercache topics create --bootstrap broker:9092 --partitions 12 --replication 3
    """
    from layercache.stream.kafka.clients import KafkaUnusable
    from layercache.stream.kafka.topics import create

    try:
        outcomes = create(settings, wait, lambda what: typer.echo(what, err=True))
    except KafkaUnusable as error:
        common.fail(f"error: {error}")
    if as_json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(outcomes)).decode())
        return
    for outcome in outcomes:
        typer.echo(f"{outcome.name}: {'created' if outcome.created else 'exists'}, partitions: {outcome.partitions}")
        for warning in outcome.warnings:
            typer.echo(f"{outcome.name}: warning: {warning}; it is left as it is", err=True)
