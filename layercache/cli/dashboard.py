"""``layercache dashboard``: the stream, its savings and its heads on a page in the browser."""

from typing import TYPE_CHECKING, Annotated

import typer

from layercache.cli import common
from layercache.cli.options import BOOTSTRAP, STORE, with_settings

if TYPE_CHECKING:
    from layercache.schemas.settings import Settings


@with_settings(BOOTSTRAP, STORE)
def command(
    settings: "Settings",
    host: Annotated[
        str, typer.Option(help="Address to serve at; 0.0.0.0 for all that this machine has.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to serve at; 0 for any that is free.")] = 8080,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Metrics of workers or the trainer, host:port or a URL; may be repeated. A name with several "
            "addresses is several workers.",
        ),
    ] = None,
    fingerprint: Annotated[
        str,
        typer.Option(help="Of the model to show, or how it begins; by default the model that answers.", metavar="HEX"),
    ] = "",
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Without the buttons that change which heads workers use.")
    ] = False,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-host",
            metavar="NAME",
            help="A name that browsers know the page by; may be repeated. Addresses and localhost need none.",
        ),
    ] = None,
) -> None:
    """Serves a live page: frames, exits, savings, disagreement, heads, lag. Reads topics and store; loads no model.

    There is no login. Everyone who can open the page sees frames and may close exits: keep it on this machine, or
    put a proxy with a login in front of it.

    \b
    Example:
      layercache dashboard
      layercache dashboard --bootstrap kafka:9092 --store-url s3://bucket/heads --metrics worker:9100 --port 8081
      layercache dashboard --host 0.0.0.0 --read-only
    """
    common.end_on_sigterm()
    from layercache.dashboard.scrape import WrongUrl, metrics_url

    try:
        urls = [metrics_url(text) for text in metrics or ()]
    except WrongUrl as error:
        common.fail(f"error: --metrics: {error}", common.WRONG_USAGE)
    if not _is_hexadecimal(fingerprint):
        common.fail(
            "error: --fingerprint: hexadecimal digits, as `layercache cuts` and predictions have it", common.WRONG_USAGE
        )
    try:
        from layercache.dashboard import app
    except ModuleNotFoundError as error:
        common.fail(f"error: {error.name} is not installed: pip install 'layercache[dashboard]'")
    from layercache.dashboard.collector import Collector

    if not _is_loopback(host):
        what = "sees frames" if read_only else "sees frames and can change which heads workers use"
        typer.echo(
            f"warning: everyone who reaches {host} {what}: there is no login, put a proxy in front of it", err=True
        )

    def ready(url: str) -> None:
        typer.echo(f"dashboard at {url}, Ctrl-C ends")

    with Collector(settings, urls, fingerprint.lower()) as collector:
        app.run(collector, host, port, read_only, ready, allowed_hosts or ())


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_hexadecimal(text: str) -> bool:
    return all(one in "0123456789abcdef" for one in text.lower())
