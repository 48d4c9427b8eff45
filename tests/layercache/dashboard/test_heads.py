"""The model that is shown, and what an operator does to its heads."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from layercache.dashboard.board import Board
from layercache.dashboard.heads import HeadsView, ModelChoice
from layercache.early_exit.store.head_store import HeadStore, StoreError, model_folders, open_folder, open_store
from layercache.early_exit.store.version_files import VersionFiles
from layercache.schemas.manifest import Manifest
from layercache.schemas.settings import Store
from tests.support.kafka_records import MODEL
from tests.support.manifests import manifest, name, tensors

OTHER = "81c0" * 16


@pytest.fixture
def settings(tmp_path: Path) -> Store:
    return Store(url=f"file://{tmp_path}/heads")


def publish(settings: Store, *numbers: int, model: str = MODEL) -> HeadStore:
    store = open_store(settings, "tiny", model)
    for number in numbers:
        store.publish(manifest(number, number - 1, model), tensors(number))
    return store


def view(settings: Store, fingerprint: str | None = MODEL) -> tuple[HeadsView, Board]:
    choice, board = ModelChoice(), Board()
    if fingerprint is not None:
        assert choice.is_shown(fingerprint, now_ms=1)
    return HeadsView(settings, choice, board), board


def test_finds_the_folder_of_the_model_that_answers(settings: Store) -> None:
    publish(settings, 1, 2)
    publish(settings, 7, model=OTHER)
    found, board = view(settings)
    found.look()
    assert [one.version for one in found.seen.heads.versions] == [name(2), name(1)]
    assert found.seen.heads.store.endswith("tiny-3f9a3f9a3f9a")
    assert found.seen.heads.sentence == f"workers use {name(2)}"
    assert found.seen.live is not None and found.seen.live.version == name(2)
    assert board.problems() == ()


def test_before_any_prediction_the_only_model_is_shown(settings: Store) -> None:
    publish(settings, 1)
    found, _ = view(settings, fingerprint=None)
    found.look()
    assert found.seen.heads.live == name(1)
    publish(settings, 1, model=OTHER)
    undecided, _ = view(settings, fingerprint=None)
    undecided.look()
    assert undecided.seen.heads.versions == ()


def test_a_model_without_heads_yet_is_no_problem_and_found_later(settings: Store) -> None:
    found, board = view(settings)
    found.look()
    assert (found.seen.heads.versions, board.problems()) == ((), ())
    publish(settings, 1)
    found.look()
    assert found.seen.heads.live == name(1)


def test_follows_what_others_publish_and_forgets_what_is_deleted(settings: Store) -> None:
    store = publish(settings, *range(1, 6))
    found, _ = view(settings)
    found.look()
    before = found.seen
    found.look()
    assert found.seen is before
    store.publish(manifest(6, 5, MODEL), tensors(6))
    found.look()
    assert found.seen.heads.live == name(6)
    assert len(found.seen.manifests) == 6


def test_versions_are_read_once(settings: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store = publish(settings, 1, 2)
    found, _ = view(settings)
    found.look()
    read: list[str] = []
    original = VersionFiles.manifest

    def counted(files: VersionFiles, version: str) -> Manifest:
        read.append(version)
        return original(files, version)

    monkeypatch.setattr(VersionFiles, "manifest", counted)
    store.publish(manifest(3, 2, MODEL), tensors(3))
    read.clear()
    found.look()
    assert read == [name(3)]


def test_actions_are_those_of_the_command_line(settings: Store, caplog: pytest.LogCaptureFixture) -> None:
    store = publish(settings, 1, 2, 3)
    found, _ = view(settings)
    with caplog.at_level(logging.INFO):
        assert found.roll_back(reason="odd shirts") == f"workers use {name(2)}"
    assert "rolled back to v0002 by the dashboard: 'odd shirts'" in caplog.text
    assert (store.latest(), found.seen.heads.live) == (name(2), name(2))
    assert found.pin(name(1), "freeze") == f"workers are held at {name(1)} (freeze); latest is {name(2)}"
    assert (found.seen.heads.pinned, found.seen.heads.pin_reason) == (True, "freeze")
    assert found.close_exits("camera 7").startswith("all exits are kept closed (camera 7)")
    assert (found.seen.heads.closed, found.seen.heads.live, store.live().closed) == (True, None, True)
    assert found.unpin() == f"workers use {name(2)}"
    assert found.pin() == f"workers are held at {name(2)}; latest is {name(2)}"


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda found: found.roll_back(), "nothing older than v0001"),
        (lambda found: found.roll_back("v0009"), "has no version v0009"),
        (lambda found: found.pin("../../etc"), "is no name for a version"),
    ],
)
def test_what_cannot_be_done_says_why(settings: Store, act: Callable[[HeadsView], str], message: str) -> None:
    publish(settings, 1)
    found, _ = view(settings)
    with pytest.raises(StoreError, match=message):
        act(found)


def test_nothing_can_be_done_before_there_are_heads(settings: Store) -> None:
    found, _ = view(settings)
    with pytest.raises(StoreError, match="start the trainer"):
        found.close_exits()


def test_a_store_that_is_away_is_a_problem_and_what_was_seen_stays(settings: Store, tmp_path: Path) -> None:
    publish(settings, 1)
    found, board = view(settings)
    found.look()
    folder = tmp_path / "heads" / "tiny-3f9a3f9a3f9a"
    (folder / "LATEST").write_bytes(b"\xff\xff")
    found.look()
    assert [problem.where for problem in board.problems()] == ["store"]
    assert "roll back to one" in board.problems()[0].message
    assert found.seen.heads.live == name(1)
    (folder / "LATEST").write_text(name(1))
    found.look()
    assert board.problems() == ()


def test_damaged_and_unsigned_versions_are_told(settings: Store, tmp_path: Path) -> None:
    publish(settings, 1, 2)
    (tmp_path / "heads" / "tiny-3f9a3f9a3f9a" / name(1) / "manifest.json").write_text("{")
    found, board = view(settings)
    found.look()
    assert [one.version for one in found.seen.manifests] == [name(2)]
    assert "is corrupt" in board.problems()[0].message
    signed = settings.model_copy(update={"signing_key": "k" * 32})
    found, board = view(Store(**signed.model_dump()))
    found.look()
    assert found.seen.manifests == ()
    assert sum("is not signed" in problem.message for problem in board.problems()) == 2


def test_a_model_that_takes_over_is_followed(settings: Store) -> None:
    publish(settings, 1)
    publish(settings, 7, model=OTHER)
    choice = ModelChoice()
    found = HeadsView(settings, choice, Board())
    assert choice.is_shown(MODEL, 0)
    found.look()
    assert not choice.is_shown(OTHER, 10_000)
    assert choice.is_shown(OTHER, 40_000)
    found.look()
    assert [one.version for one in found.seen.manifests] == [name(7)]
    assert choice.others == {OTHER: 1}


def test_other_models_are_remembered_within_bounds() -> None:
    choice = ModelChoice(wanted="ab")
    for number in range(1_000):
        assert not choice.is_shown(f"{number:064x}", 0)
    assert len(choice.others) <= 20


def test_folders_are_found_by_the_end_of_their_names(settings: Store, tmp_path: Path) -> None:
    publish(settings, 1)
    publish(settings, 1, model=OTHER)
    (tmp_path / "heads" / "notes").mkdir()
    assert model_folders(settings) == ["tiny-3f9a3f9a3f9a", "tiny-81c081c081c0"]
    assert model_folders(settings, OTHER) == ["tiny-81c081c081c0"]
    assert model_folders(settings, "81c0") == ["tiny-81c081c081c0"]
    assert model_folders(settings, "ffff") == []
    assert open_folder(settings, "tiny-81c081c081c0").latest() == name(1)
