"""One target in a process of its own: a crash is a finding, not the end of the fuzzing.

Before each input is tried, it and its number are written to ``current``, where the parent finds what was tried last.
"""

import faulthandler
import os
import random
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.mutations import mutated

NUMBER = struct.Struct("<QQ")


class Recorder:
    """Tries inputs, each recorded before."""

    def __init__(self, run: Callable[[bytes], None], current: Path) -> None:
        self._run = run
        self._file = os.open(current, os.O_RDWR | os.O_CREAT)
        self.count = 0

    def __call__(self, data: bytes) -> None:
        self.count += 1
        os.pwrite(self._file, NUMBER.pack(self.count, len(data)) + data, 0)
        self._run(data)


def by_mutations(name: str, current: Path, seed: int, inputs: int, seconds: float) -> None:
    """Edits of the examples, the same for the same seed."""
    from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    examples, record = target.examples(), Recorder(target.run, current)
    deadline = time.monotonic() + seconds
    for number in range(inputs):
        if time.monotonic() > deadline:
            break
        record(mutated(examples, random.Random(f"{seed}-{name}-{number}")))


def by_coverage(name: str, current: Path, seed: int, seconds: float, corpus: Path) -> None:
    """Inputs that reach new branches of our Python code breed others (libFuzzer, by ``atheris``)."""
    import atheris

    with atheris.instrument_imports(include=["layercache"]):
        from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    corpus.mkdir(parents=True, exist_ok=True)
    for number, example in enumerate(target.examples()):
        (corpus / f"example-{number}").write_bytes(example)
    options = [f"-max_total_time={max(1, round(seconds))}", f"-seed={seed + 1}", "-max_len=20000", "-rss_limit_mb=4096"]
    quiet = ["-verbosity=0", f"-artifact_prefix={corpus}-"]
    atheris.Setup([sys.argv[0], *options, *quiet, str(corpus)], Recorder(target.run, current))
    atheris.Fuzz()


if __name__ == "__main__":
    faulthandler.enable()
    engine, target_name, current_file, seed_text, inputs_text, seconds_text, corpus_folder = sys.argv[1:]
    if engine == "atheris":
        by_coverage(target_name, Path(current_file), int(seed_text), float(seconds_text), Path(corpus_folder))
    else:
        by_mutations(target_name, Path(current_file), int(seed_text), int(inputs_text), float(seconds_text))
