"""The worker's own loop with an idle engine, until ended: ``python -m benchmarks.pipeline.plumbing FILE``."""

import sys
from pathlib import Path

from benchmarks.plumbing import run_do_nothing_worker
from layercache.schemas import settings


def main() -> None:
    """Works as the settings in the file say."""
    run_do_nothing_worker(settings.load(Path(sys.argv[1])), frames=sys.maxsize)


if __name__ == "__main__":
    main()
