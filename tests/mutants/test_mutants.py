"""The mutants fit today's code, and the driver tells one that is caught from one that survives."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutants.bench import MARKERS, Bench, Unusable
from tests.mutants.catalogue import AREAS, MUTANTS
from tests.mutants.mutant import Mutant, Outdated

_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.broken)
def test_a_mutant_still_fits_its_file(mutant: Mutant) -> None:
    text = (_ROOT / mutant.file).read_text()
    mutated = mutant.mutated(text)
    assert ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(text)), "it changes nothing but comments or layout"
    for file in mutant.tests.split():
        assert (_ROOT / file).is_file(), f"{file} is to catch {mutant.broken!r}: name in tests/mutants/ where it went"


def test_every_area_has_its_share_and_no_mutant_comes_twice() -> None:
    assert len({mutant.broken for mutant in MUTANTS}) == len(MUTANTS) >= 40
    assert len({(mutant.file, mutant.before, mutant.after) for mutant in MUTANTS}) == len(MUTANTS)
    assert {area: len(mutants) for area, mutants in AREAS.items() if len(mutants) < 8} == {}


def test_what_make_test_leaves_out_catches_no_mutant() -> None:
    assert f'-m "{MARKERS}"' in (_ROOT / "Makefile").read_text()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Of a tiny project, whose tests look at sums of small numbers only."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they take most of a second
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "sums.py").write_text("def add(a, b):\n    return a + b\n")
    (folder / "test_sums.py").write_text("from sums import add\n\ndef test_add():\n    assert add(1, 2) == 3\n")
    with Bench(folder, libraries=["pytest"]) as bench:
        yield bench


def mistake(after: str) -> Mutant:
    return Mutant("a sum is wrong", "sums.py", "a + b", after, "test_sums.py")


def test_what_fails_is_caught_and_what_passes_survives(bench: Bench) -> None:
    right = (bench.folder / "sums.py").read_text()
    bench.check_passes([mistake("a - b")])
    caught = bench.outcome(mistake("a - b"))
    assert (caught.verdict, caught.test, caught.said) == ("caught", "test_add", "assert -1 == 3")
    survivor = bench.outcome(mistake("min(a, 100) + b"))
    assert (survivor.verdict, survivor.test) == ("survived", "")
    assert (bench.folder / "sums.py").read_text() == right
    bench.check_passes([mistake("a - b")])


@pytest.mark.parametrize("after", ["a +", "a + c"])
def test_what_is_no_program_is_no_mutant(after: str, bench: Bench) -> None:
    assert bench.outcome(mistake(after)).verdict == "no mutant"


def test_tests_that_fail_without_any_mistake_show_nothing(bench: Bench) -> None:
    (bench.folder / "test_sums.py").write_text("def test_nothing():\n    assert False\n")
    with pytest.raises(Unusable, match="fail without any mistake"):
        bench.check_passes([mistake("a - b")])


def test_code_from_elsewhere_shows_nothing(bench: Bench) -> None:
    with pytest.raises(Unusable, match="would be tested, not the copy"):
        bench.check_imports()


def test_a_mutant_that_fits_no_more_says_what_to_do() -> None:
    with pytest.raises(Outdated, match=r"(?s)is in sums\.py 0 times.*change the mutant's file, before and after"):
        mistake("a - b").mutated("def add(a, c):\n    return a + c\n")
    with pytest.raises(Outdated, match="2 times"):
        mistake("a - b").mutated("a + b, a + b")
