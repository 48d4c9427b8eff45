"""A run that is cut off goes on after its last whole phase, unless anything it depends on has changed."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.harness import keeping
from tests.faults.harness.keeping import Keeper, code_hash
from tests.faults.test_report import EXACT, PHASE


def test_a_phase_that_is_over_is_found_as_it_was(tmp_path: Path) -> None:
    Keeper(tmp_path).keep(EXACT)
    assert Keeper(tmp_path).find(PHASE) == EXACT


def test_another_phase_of_the_same_name_is_not_it(tmp_path: Path) -> None:
    Keeper(tmp_path).keep(EXACT)
    assert Keeper(tmp_path).find(replace(PHASE, seed=1)) is None
    assert Keeper(tmp_path).find(replace(PHASE, name="three brokers")) is None


def test_what_ran_on_other_code_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Keeper(tmp_path).keep(EXACT)
    monkeypatch.setattr(keeping, "code_hash", lambda: "another")
    assert Keeper(tmp_path).find(PHASE) is None


def test_the_code_is_every_room_but_not_the_documents(tmp_path: Path) -> None:
    (tmp_path / "stream").mkdir()
    (tmp_path / "docs").mkdir()
    before = code_hash(tmp_path)
    (tmp_path / "docs" / "page.py").write_text("1")
    assert code_hash(tmp_path) == before
    (tmp_path / "stream" / "worker.py").write_text("1")
    assert code_hash(tmp_path) != before


def test_to_begin_anew_forgets_them(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.keep(EXACT)
    keeper.forget()
    assert keeper.find(PHASE) is None
