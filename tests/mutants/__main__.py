"""Breaks the project in one place after another, and wants a test to notice each time: ``make mutants``."""

from __future__ import annotations

import argparse
import re
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.mutants.bench import Bench, Outcome, Unusable
from tests.mutants.catalogue import AREAS, MUTANTS
from tests.mutants.mutant import Mutant, Outdated

_ROOT = Path(__file__).parents[2]
_PAGE = _ROOT / "CONTRIBUTING.md"
_START, _STOP = "<!-- mutants -->", "<!-- /mutants -->"


def table(outcomes: Sequence[tuple[Mutant, Outcome]]) -> str:
    """For CONTRIBUTING.md."""
    lines = ["| what is broken | in | caught by | seconds |", "|---|---|---|---|"]
    for mutant, outcome in outcomes:
        caught_by = f"`{outcome.test}`" if outcome.test else f"**{outcome.verdict}**"
        lines.append(f"| {mutant.broken} | `{mutant.file}` | {caught_by} | {outcome.seconds:.0f} |")
    return "\n".join(lines)


def try_out(bench: Bench, mutants: Sequence[Mutant], verbose: bool) -> list[tuple[Mutant, Outcome]]:
    """One mutant after another, each told as soon as it is known."""
    outcomes = []
    for number, mutant in enumerate(mutants, 1):
        print(f"{number:3} of {len(mutants)}  {mutant.broken} ({mutant.file})", flush=True)
        outcome = bench.outcome(mutant)
        outcomes.append((mutant, outcome))
        print(f"            {outcome.verdict} {outcome.test} {outcome.seconds:.1f} s", flush=True)
        if verbose or outcome.verdict != "caught":
            print(outcome.said, flush=True)
    return outcomes


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code is 1 where a mutant was not caught, 2 where nothing could be shown."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", metavar="TEXT", default="", help="those in whose name or file TEXT is")
    parser.add_argument("--list", action="store_true", help="names them, and runs nothing")
    parser.add_argument("--verbose", action="store_true", help="says what the tests said, too")
    parser.add_argument("--write", action="store_true", help="writes the table of all into CONTRIBUTING.md")
    chosen = parser.parse_args(arguments)
    mutants = [one for one in MUTANTS if chosen.only in one.broken or chosen.only in one.file]
    if not mutants:
        parser.error(f"no mutant has {chosen.only!r} in its name or file; --list names them")
    if chosen.write and chosen.only:
        parser.error("--write takes the whole list, without --only")
    if chosen.list:
        for area, its in AREAS.items():
            print("\n".join([area, *(f"  {one.broken} ({one.file})" for one in its if one in mutants)]))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the temporary folder goes then, too
    try:
        with (
            tempfile.TemporaryDirectory(prefix="layercache-mutants-") as folder,
            Bench.of_tracked(_ROOT, Path(folder) / "tree") as bench,
        ):
            bench.check_imports()
            print(f"the tests of {len(mutants)} mutants, without any: ", end="", flush=True)
            print(f"they pass, {bench.check_passes(mutants):.0f} s", flush=True)
            outcomes = try_out(bench, mutants, chosen.verbose)
    except (Unusable, Outdated) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    caught = sum(outcome.verdict == "caught" for _, outcome in outcomes)
    seconds = sum(outcome.seconds for _, outcome in outcomes)
    print(f"{caught} of {len(outcomes)} were caught, in {seconds:.0f} s")
    if chosen.write:
        page = _PAGE.read_text()
        written = f"{_START}\n{table(outcomes)}\n{_STOP}"
        _PAGE.write_text(re.sub(f"{_START}.*{_STOP}", lambda _: written, page, flags=re.DOTALL))
    return int(caught < len(outcomes))


if __name__ == "__main__":
    sys.exit(main())
