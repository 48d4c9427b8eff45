"""Replaces itself by a command that the kernel kills as soon as the demo is gone, however the demo went.

Run as a script, ``python child.py DEMO_PID COMMAND...``: the demo starts its processes through it, so that not even
``kill -9`` of the demo leaves them behind. Imports nothing of ours, to start quickly. Where the kernel has no such
signal (it is Linux's), the command runs as it is.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(demo: int, command: list[str]) -> None:
    """Asks for SIGKILL at the demo's death, then becomes ``command``."""
    if sys.platform == "linux":
        # survives the exec below; SIGKILL, as the broker of the demo dies with it and nothing is left to finish
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != demo:
        sys.exit(f"the demo (process {demo}) is gone")
    os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
