"""A publisher is killed at any moment, many times over; whoever reads the store never sees half a version."""

import multiprocessing
import random
import time
from pathlib import Path

from early_exit.store import HeadStore
from tests.support.manifests import manifest, name, publish_forever, tensors

KILLS = 40
VALUES_A_ROW = 200_000  # heads of 2.4 MB: most of a publish is spent in writing them
LONGEST_LIFE_S = 0.08
DEADLINE_S = 120.0


def read(store: HeadStore, last: int) -> int:
    """Loads the live version, checks that it is whole and not older than ``last``; returns its number."""
    live = store.live()
    if live.version is None:
        return last
    found, weights = store.load(live.version)
    number = int(live.version[1:])
    assert found.version == live.version
    assert number >= last
    assert weights.keys() == tensors(number, 1).keys()
    assert weights["first.classify.weight"].shape == (3, VALUES_A_ROW)
    assert bool((weights["first.classify.weight"] == number).all())
    assert int(weights["first.standardise.num_batches_tracked"]) == number
    return number


def test_a_reader_never_sees_half_a_version(tmp_path: Path) -> None:
    random_ = random.Random(0)
    url, folder = f"file://{tmp_path}", "tiny"
    store = HeadStore(url, folder)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.support.manifests"])
    deadline = time.monotonic() + DEADLINE_S
    last = reads = 0
    for _ in range(KILLS):
        publisher = processes.Process(target=publish_forever, args=(url, folder, VALUES_A_ROW))
        before = store.attempts()
        publisher.start()
        while store.attempts() == before:  # it is at work; from here on it may die any moment
            last = read(store, last)
            assert publisher.is_alive()
            assert time.monotonic() < deadline
        dies = time.monotonic() + random_.uniform(0, LONGEST_LIFE_S)
        while time.monotonic() < dies:
            last = read(store, last)
            reads += 1
        publisher.kill()
        publisher.join()
        last = read(store, last)
    whole = {found.version for found in store.versions()}
    assert 0 < len(whole) < store.attempts(), "no publish was cut short: the test killed too late"
    assert reads > KILLS

    number = store.claim_attempt()
    store.publish(manifest(number, last), tensors(number, VALUES_A_ROW))
    assert store.live().version == name(number)
    assert read(store, last) == number
