"""A checkpoint is whole or not there."""

from pathlib import Path

import pytest
import torch

from layercache.cache_training.service.state import Checkpoints


def test_the_latest_is_kept_and_the_ones_before_are_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for number in range(3):
        checkpoints.save({"x": torch.tensor([number])}, {"number": number})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]
    loaded = Checkpoints(tmp_path).load()
    assert loaded is not None
    assert loaded[1] == {"number": 2}
    assert loaded[0]["x"].tolist() == [2]


def test_there_is_none_at_first(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "new").load() is None


def test_a_half_written_one_is_not_seen(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save({"x": torch.tensor([1])}, {})
    (tmp_path / "checkpoint-2.tmp").mkdir()
    (tmp_path / "checkpoint-2.tmp" / "state.safetensors").write_bytes(b"half")
    again = Checkpoints(tmp_path)
    loaded = again.load()
    assert loaded is not None
    assert loaded[0]["x"].tolist() == [1]
    again.save({"x": torch.tensor([2])}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_a_damaged_one_is_passed_over_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Checkpoints(tmp_path).save({"x": torch.tensor([1])}, {})
    (tmp_path / "checkpoint-7").mkdir()
    (tmp_path / "checkpoint-7" / "state.safetensors").write_bytes(b"not safetensors")
    (tmp_path / "checkpoint-7" / "state.json").write_text("{}")
    loaded = Checkpoints(tmp_path).load()
    assert loaded is not None
    assert loaded[0]["x"].tolist() == [1]
    assert "checkpoint-7" in caplog.text


def test_a_full_disk_leaves_the_one_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"x": torch.tensor([1])}, {})
    (tmp_path / "checkpoint-2.tmp").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="checkpoint-2"):
        checkpoints.save({"x": torch.tensor([2])}, {})
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded[0]["x"].tolist() == [1]
