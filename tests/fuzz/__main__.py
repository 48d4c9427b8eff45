"""Fuzzes all targets, each in processes of its own, and says how many inputs were tried: ``make fuzz``."""

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.child import NUMBER

#: An input that takes longer hangs; the targets' limits keep all others under a second.
_HANGS_S = 60.0
_MAX_MEMORY_BYTES = 6 << 30
_START, _STOP = "<!-- fuzz -->", "<!-- /fuzz -->"
_PAGE = Path(__file__).parents[2] / "docs" / "security.md"


@dataclass
class Outcome:
    """What came of one target."""

    inputs: int
    seconds: float
    finding: str | None


def fuzz(name: str, engine: str, seed: int, inputs: int, seconds: float, folder: Path) -> Outcome:
    """Runs one target; a finding's input is kept in ``folder``."""
    slug = re.sub(r"\W+", "-", name).strip("-")
    current, log = folder / f"{slug}.current", folder / f"{slug}.log"
    command = [sys.executable, "-m", "tests.fuzz.child", engine, name, str(current)]
    command += [str(seed), str(inputs), str(seconds), str(folder / f"{slug}.corpus")]
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        stopped = _watch(process, current)
    count, data = _last(current)
    finding = stopped
    if process.returncode != 0 and finding is None:
        code = process.returncode
        died = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        finding = f"{died}\n{log.read_text(errors='replace')[-3_000:]}"
    if finding is not None:
        kept = folder / f"{slug}.finding"
        kept.write_bytes(data)
        finding = f"{finding}\nits input: {kept}"
    return Outcome(count, time.monotonic() - began, finding)


def _watch(process: "subprocess.Popen[bytes]", current: Path) -> str | None:
    """Waits for the end; a process that hangs or swells is killed, and that is said."""
    count, since = -1, time.monotonic()
    while True:
        try:
            process.wait(0.5)
            return None
        except subprocess.TimeoutExpired:
            now = _last(current)[0]
        if now != count:
            count, since = now, time.monotonic()
        size = _memory(process.pid)
        hangs = count > 0 and time.monotonic() - since > _HANGS_S
        if hangs or size > _MAX_MEMORY_BYTES:
            process.kill()
            process.wait()
            return f"an input took more than {_HANGS_S:.0f} s" if hangs else f"{size:,} bytes of memory"


def _memory(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):  # it has just ended, or this is no Linux
        return 0


def _last(current: Path) -> tuple[int, bytes]:
    """How many inputs were tried, and the last."""
    try:
        content = current.read_bytes()
        count, length = NUMBER.unpack_from(content)
    except (OSError, struct.error):
        return 0, b""
    return count, content[NUMBER.size : NUMBER.size + length]


def report(outcomes: dict[str, Outcome], engine: str) -> str:
    """As a table."""
    lines = ["| target | inputs | seconds | findings |", "|---|---|---|---|"]
    for name, outcome in outcomes.items():
        finding = "none" if outcome.finding is None else outcome.finding.splitlines()[0]
        lines.append(f"| {name} | {outcome.inputs:,} | {outcome.seconds:.0f} | {finding} |")
    total = sum(outcome.inputs for outcome in outcomes.values())
    return "\n".join([*lines, f"| all, by {engine} | {total:,} | | |"])


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code is 1 where something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="for all targets together (default: 10)")
    parser.add_argument("--inputs", type=int, help="of mutations for each target, whatever time that takes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", help="only this one; may be repeated")
    parser.add_argument("--engine", choices=("atheris", "mutations"), help="default: atheris where it is installed")
    parser.add_argument("--write", action="store_true", help="writes the table into docs/security.md")
    parser.add_argument("--json", action="store_true", help="prints inputs and findings as JSON")
    chosen = parser.parse_args(arguments)
    from tests.fuzz.targets import TARGETS

    names = chosen.target or list(TARGETS)
    installed = importlib.util.find_spec("atheris") is not None
    engine = chosen.engine or ("atheris" if installed and chosen.inputs is None else "mutations")
    seconds = 1e6 if chosen.inputs is not None else 60 * chosen.minutes / len(names)
    folder = Path(tempfile.mkdtemp(prefix="layercache-fuzz-"))
    outcomes = {}
    for name in names:
        outcomes[name] = fuzz(name, engine, chosen.seed, chosen.inputs or 2**62, seconds, folder)
        print(f"{name}: {outcomes[name].inputs:,} inputs, {outcomes[name].finding or 'nothing found'}", file=sys.stderr)
    table = report(outcomes, engine)
    found = any(outcome.finding for outcome in outcomes.values())
    if chosen.write:
        page = _PAGE.read_text()
        _PAGE.write_text(re.sub(f"{_START}.*{_STOP}", lambda _: f"{_START}\n{table}\n{_STOP}", page, flags=re.DOTALL))
    print(
        json.dumps({n: {"inputs": o.inputs, "finding": o.finding} for n, o in outcomes.items()})
        if chosen.json
        else table
    )
    if not found:
        shutil.rmtree(folder)
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
