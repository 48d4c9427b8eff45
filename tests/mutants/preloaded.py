"""Runs pytest in one forked process after another, in which the libraries named as arguments are imported already.

They take most of the time that a short test takes. Reads one request a line, as JSON: pytest's ``arguments``, and the
file for their ``output``; answers each by a line with the exit code. Nothing of the project is imported before a fork.
"""

import importlib
import json
import os
import sys


def main() -> None:
    """Until the end of the input."""
    for library in sys.argv[1:]:
        importlib.import_module(library)
    assert not {"layercache", "conftest"} & sys.modules.keys(), "it would be older than a mutant"
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _test(request["arguments"], request["output"])
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _test(arguments: list[str], output: str) -> None:
    with open(output, "wb") as file, open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    code = 3  # pytest's for an error of its own
    try:
        import pytest

        code = int(pytest.main(arguments))
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
