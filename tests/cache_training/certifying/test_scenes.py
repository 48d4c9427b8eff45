"""Scenes that outlast blocks are seen, by the full model's answers to neighbouring blocks of a key."""

import json

import numpy as np
import pytest

from layercache.cache_training.certifying.scenes import SceneWatch

CAMERAS, CLASSES, BLOCK_S = 20, 10, 10


def watched(
    scene_blocks: float, blocks: int = 60, drift: float = 0.0, keyed: bool = True, into: SceneWatch | None = None
) -> SceneWatch:
    """Cameras of which each shows another scene once in so many blocks; ``drift`` is a slow change that all share."""
    watch, random = into or SceneWatch(BLOCK_S), np.random.default_rng(3)
    scenes = random.standard_normal((CAMERAS, CLASSES)) * 4
    keys = np.arange(1, CAMERAS + 1) if keyed else np.zeros(CAMERAS, np.int64)
    for block in range(blocks):
        ends = random.random(CAMERAS) < 1 / scene_blocks
        scenes[ends] = random.standard_normal((int(ends.sum()), CLASSES)) * 4
        slow = drift * np.cos(block / 200 + np.arange(CLASSES))
        for second in (0, 4):  # the second audit of a block is a near-copy of the first, and does not count
            noise = random.standard_normal((CAMERAS, CLASSES)) * 0.1
            times = np.full(CAMERAS, (block * BLOCK_S + second) * 1_000)
            watch.add(keys, times, (scenes + slow + noise).astype(np.float32))
    return watch


@pytest.mark.parametrize(("scene_blocks", "outlast"), [(1, False), (1.5, True), (3, True), (20, True), (1e9, True)])
def test_scenes_that_outlast_their_blocks_are_seen(scene_blocks: float, outlast: bool) -> None:
    watch = watched(scene_blocks)
    assert watch.outlast == outlast, watch.likeness
    assert not watch.is_undecided


def test_what_changes_slowly_is_no_scene() -> None:
    assert watched(1, blocks=200, drift=5.0).outlast is False


def test_nothing_is_said_of_few_pairs_or_without_keys() -> None:
    few = watched(20, blocks=4)
    assert (few.likeness, few.outlast, few.is_undecided) == (None, None, True)
    unkeyed = watched(20, keyed=False)
    assert (unkeyed.outlast, unkeyed.is_undecided) == (None, False)


def test_keys_that_never_come_twice_in_a_row_are_not_waited_for() -> None:
    watch, random = SceneWatch(BLOCK_S), np.random.default_rng(3)
    for block in range(500):
        keys = random.choice(np.arange(1, 5_000), 4)
        watch.add(keys, np.full(4, block * BLOCK_S * 1_000), random.standard_normal((4, CLASSES)).astype(np.float32))
    assert (watch.outlast, watch.is_undecided) == (None, False)


@pytest.mark.parametrize(("noise", "outlast"), [(4.0, None), (0.05, True)])
def test_keys_that_come_for_a_moment_are_not_waited_for_forever(noise: float, outlast: bool | None) -> None:
    """Each stays for three blocks, so that none are five apart; still scenes are seen all the same."""
    watch, random = SceneWatch(BLOCK_S), np.random.default_rng(3)
    waited = []
    for visit in range(1, 1_200):
        scene = random.standard_normal(CLASSES) * 4
        for block in range(3):
            answer = (scene + random.standard_normal(CLASSES) * noise).astype(np.float32)
            watch.add(np.array([visit]), np.array([(visit + block) * BLOCK_S * 1_000]), answer[None])
        waited.append(watch.is_undecided)
    assert watch.outlast is outlast
    assert waited[20]
    assert not waited[-1]


def test_frames_that_are_late_or_come_again_change_nothing() -> None:
    watch = watched(1)
    before = watch.state()
    watched(1, blocks=50, into=watch)
    assert watch.state() == before


def test_it_forgets_slowly_and_outlives_a_checkpoint() -> None:
    watch = watched(20, blocks=400)
    assert watch.outlast
    again = SceneWatch(BLOCK_S)
    again.restore(json.loads(json.dumps(watch.state())))
    assert again.likeness == watch.likeness
    again.restore(None)
    assert again.likeness is None
    watch.clear()
    assert (watch.likeness, watch.is_undecided) == (None, False)
