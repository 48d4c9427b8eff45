"""Free ports of this machine."""

import contextlib
import socket


def free_ports(count: int) -> list[int]:
    """That many different ports on which nothing listens just now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]
