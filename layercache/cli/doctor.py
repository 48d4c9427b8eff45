"""``layercache doctor``: is everything there, and does it fit together?"""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from layercache.cli import common
from layercache.cli.options import BOOTSTRAP, MODEL, RUNTIME, STORE, SettingOption, with_settings
from layercache.presenting.redaction import redacted

if TYPE_CHECKING:
    from layercache.doctor.checks import Finding
    from layercache.schemas.settings import Settings

_MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "error": ("error", "red"), "skipped": ("-", "dim")}


@with_settings(
    BOOTSTRAP,
    *MODEL,
    *RUNTIME,
    STORE,
    "promise.max_disagreement",
    SettingOption("worker.metrics_port", help="A worker's metrics port on this machine."),
    SettingOption("trainer.state_dir", help="The trainer's folder on this machine."),
)
def command(
    settings: "Settings",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Checks machine, model, store, heads, broker, topics and readers, and says what to fix.

    Give it the settings of your workers and trainer. Changes nothing; to see whether the store can be written to, it
    writes a probe and removes it. Exit code 1 where something is wrong, 0 with warnings.

    \b
    Example:
      layercache doctor --config layercache.toml
      layercache doctor --model my_model.py:build --bootstrap broker:9092 --store-url s3://bucket/heads
      layercache doctor --config layercache.toml --json | jq '.[] | select(.state == "error")'
    """
    import logging

    from layercache.doctor.checkup import check_all

    logging.getLogger().setLevel(logging.ERROR)  # anything worth reporting is a finding
    with _Display(as_json) as display:
        for finding in check_all(settings, display.show_area):
            display.show(finding)
    found = display.found
    if as_json:
        import msgspec

        typer.echo(redacted(msgspec.json.format(msgspec.json.encode(found)).decode()))
    else:
        typer.echo(_summary(found))
    raise typer.Exit(common.FAILED if any(one.state == "error" for one in found) else common.OK)


def _summary(found: "list[Finding]") -> str:
    counts = {state: sum(one.state == state for one in found) for state in _MARKS}
    if not counts["error"] and not counts["warning"]:
        return f"\nall well: {counts['ok']} checks"
    return f"\nerrors: {counts['error']}, warnings: {counts['warning']}, ok: {counts['ok']}"


class _Display:
    """A line for each finding, as it comes; on a terminal also the area that is being checked."""

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console

        self.found: list[Finding] = []
        self._quiet = quiet
        self._console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
        self._status = Console(stderr=True).status("")
        self._area = ""

    def __enter__(self) -> "_Display":
        self._status.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._status.stop()

    def show_area(self, area: str) -> None:
        """Shows which area is checked next."""
        self._status.update(f"looking at the {area}")

    def show(self, finding: "Finding") -> None:
        """One line, and below it what to do."""
        self.found.append(finding)
        if self._quiet:
            return
        from rich.markup import escape

        if finding.area != self._area:
            self._area = finding.area
            self._console.print(f"\n[bold]{escape(finding.area)}[/bold]")
        mark, colour = _MARKS[finding.state]
        self._console.print(f"  [{colour}]{mark:<7}[/{colour}] {escape(redacted(f'{finding.check}: {finding.found}'))}")
        if finding.fix:
            self._console.print(f"          → {escape(redacted(finding.fix))}")
