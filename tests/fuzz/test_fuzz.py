"""A short fuzzing of everything that reads bytes from outside; `make fuzz` is the long one."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import __main__ as driver
from tests.fuzz.mutations import mutated
from tests.fuzz.targets import TARGETS

INPUTS = 300
#: Read by libraries in C and Rust, where a mistake ends the process. What the others refuse, hypothesis shrinks to the
#: smallest input that shows it.
NATIVE = {"frames", "heads (safetensors)"}


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_what_is_promised_of_every_reader_holds_for_its_examples(name: str) -> None:
    for example in TARGETS[name].examples():
        TARGETS[name].run(example)


@pytest.mark.slow
@pytest.mark.process
def test_readers_in_c_survive_damaged_input_in_a_process_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--inputs", str(INPUTS), "--seed", "7", "--json"]
    command += [argument for name in NATIVE for argument in ("--target", name)]
    code = driver.main(command)
    said = capsys.readouterr()
    assert code == 0, said.err
    assert json.loads(said.out) == {name: {"inputs": INPUTS, "finding": None} for name in NATIVE}


@pytest.mark.parametrize("name", sorted(TARGETS.keys() - NATIVE))
def test_readers_in_python_refuse_whatever_they_do_not_read(name: str) -> None:
    examples = list(TARGETS[name].examples())

    @settings(derandomize=True, deadline=None, max_examples=60)
    @given(st.one_of(st.binary(max_size=300), st.integers(0, 2**32).map(lambda n: mutated(examples, random.Random(n)))))
    def refuses_or_reads(data: bytes) -> None:
        TARGETS[name].run(data)

    refuses_or_reads()


@pytest.mark.process
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "signal SIGSEGV"),
        ("raise ValueError('not promised')", "ValueError: not promised"),
        ("import time; time.sleep(600)", "an input took more than 1 s"),
    ],
)
def test_a_crash_an_error_and_a_hang_are_found_and_their_input_is_kept(
    code: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child.py"
    child.write_text(
        "import struct, sys\n"
        "open(sys.argv[1], 'wb').write(struct.pack('<QQ', 3, 5) + b'input')\n" + code
    )  # fmt: skip
    monkeypatch.setattr(driver, "_HANGS_S", 1.0)
    real = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, **options: real([sys.executable, str(child), command[5]], **options)
    )
    outcome = driver.fuzz("frames", "mutations", 0, 1, 1.0, tmp_path)
    assert outcome.inputs == 3
    assert outcome.finding is not None
    assert says in outcome.finding
    assert (tmp_path / "frames.finding").read_bytes() == b"input"
