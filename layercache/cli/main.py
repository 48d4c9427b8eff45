"""The command line's entry point. Commands import torch and Kafka when they run: ``layercache --help`` is quick."""

import sys
from typing import Annotated

import typer

import layercache
from layercache.cli import (
    broker,
    common,
    cuts,
    dashboard,
    demo,
    doctor,
    heads,
    profile,
    publish,
    report,
    settings,
    topics,
    trainer,
    watch,
    worker,
)
from layercache.presenting import redaction

app = typer.Typer(
    name="layercache",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.command)
app.command("broker")(broker.command)
app.command("worker")(worker.command)
app.command("trainer")(trainer.command)
app.command("publish")(publish.command)
app.command("watch")(watch.command)
app.command("dashboard")(dashboard.command)
app.add_typer(topics.app, name="topics")
app.command("cuts")(cuts.command)
app.command("profile")(profile.command)
app.command("report")(report.command)
app.add_typer(heads.app, name="heads")
app.command("doctor")(doctor.command)
app.command("settings")(settings.command)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"layercache {layercache.__version__}")
        raise typer.Exit()


@app.callback()
def layercache_command(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Debug lines, and tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="The version, and nothing else.")
    ] = False,
) -> None:
    """Makes an image classifier served over Kafka cheaper while it runs.

    \b
    Example:
      layercache demo                                   everything at once, without Docker
      layercache worker --model my_model.py:build       answer frames
      layercache publish photos/                        send frames
      layercache watch                                  see the predictions
      layercache dashboard                              see it all in the browser
    """
    context.obj = {"verbose": verbose}
    common.set_up_logging(verbose)


def main() -> None:
    """Runs the command of ``sys.argv``; exit codes: 0 done, 1 failed, 2 wrong usage or settings, 130 Ctrl-C."""
    redaction.install()
    verbose = "-v" in sys.argv or "--verbose" in sys.argv
    try:
        app(prog_name="layercache")
    except KeyboardInterrupt:
        sys.exit(common.INTERRUPTED)
    except Exception as error:
        # Layercache's own errors say what is wrong and what to do; a traceback would only hide that.
        if verbose or type(error).__module__.partition(".")[0] != "layercache":
            raise
        typer.echo(redaction.redacted(f"error: {error}"), err=True)
        sys.exit(common.FAILED)
