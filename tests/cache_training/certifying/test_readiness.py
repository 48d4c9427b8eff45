"""An attempt waits for enough audits, and for blocks that are independent; never for answers that please."""

import numpy as np
import pytest

from layercache.cache_training.certifying.audits import AuditIntake
from layercache.cache_training.certifying.readiness import Readiness
from layercache.cache_training.certifying.windows import Windows
from layercache.schemas.settings import Promise
from tests.cache_training.builders import numbered, record

CAMERAS, CLASSES = 40, 8


def readiness(
    scene_blocks: int, blocks: int, keyed: bool = True, block_frames: int = 1
) -> tuple[Readiness, AuditIntake]:
    """Cameras that each show another scene after so many blocks of a second, with one frame in each block."""
    promise, random = Promise(max_disagreement=0.05, block_s=1, block_frames=block_frames), np.random.default_rng(5)
    intake = AuditIntake(Windows(16, 10_000, 1_000, 0), promise.block_s, promise.block_frames)
    scenes = random.standard_normal((CAMERAS, CLASSES)).astype(np.float32)
    keys = np.arange(1, CAMERAS + 1) if keyed else None
    for block in range(blocks):
        changes = (np.arange(CAMERAS) + block) % scene_blocks == 0
        scenes[changes] = random.standard_normal((int(changes.sum()), CLASSES))
        pictures, times = numbered(CAMERAS, block * CAMERAS), np.full(CAMERAS, block * 1_000)
        intake.take(record(pictures, scenes, first_offset=block * CAMERAS, keys=keys, timestamp_ms=times))
    return Readiness(intake, promise, CLASSES), intake


@pytest.mark.parametrize(("blocks", "ready"), [(1, False), (12, True)])
def test_it_waits_for_as_many_frames_as_the_error_takes(blocks: int, ready: bool) -> None:
    enough, _ = readiness(1, blocks, keyed=False)
    assert enough.is_ready(0.025, is_first=True) == ready
    assert not enough.is_ready(1e-9, is_first=True)


def test_it_certifies_nothing_where_scenes_outlast_blocks_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    independent, _ = readiness(1, 12)
    assert independent.is_ready(0.025, is_first=True)
    lasting, intake = readiness(8, 12)
    assert intake.independent() > 200
    assert not any(lasting.is_ready(0.025, is_first=True) for _ in range(3))
    (line,) = [line for line in caplog.messages if "scenes outlast promise.block_s = 1." in line]
    assert "Set promise.block_s" in line


def test_it_waits_until_it_knows_whether_scenes_outlast_blocks() -> None:
    early, intake = readiness(8, 5)
    assert intake.independent() > 100
    assert intake.scenes.outlast is None
    assert not early.is_ready(0.05, is_first=True)


def test_it_says_what_room_for_long_blocks_costs_where_keys_send_less(caplog: pytest.LogCaptureFixture) -> None:
    """Each camera sends a frame per block."""
    caplog.set_level("INFO")
    (single, alone), (long, intake) = readiness(1, 40), readiness(1, 40, block_frames=10)
    assert alone.independent() > 10 * intake.independent() - 10 > 0
    assert not long.is_ready(1e-9, is_first=True)
    assert not long.is_ready(1e-9, is_first=True)
    (line,) = [line for line in caplog.messages if "promise.block_frames = 10 frames within 1 s" in line]
    assert "about 1 is the most" in line
    assert not single.is_ready(1e-30, is_first=True)
    assert not [line for line in caplog.messages if "block_frames = 1 " in line]
