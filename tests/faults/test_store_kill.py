"""A publisher is killed at any moment, many times over; whoever reads the store never sees half a version."""

import multiprocessing
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from layercache.early_exit.store.head_store import HeadStore
from tests.support.manifests import manifest, name, publish_forever, tensors

KILLS = 15
VALUES_A_ROW = 100_000  # heads of 1.2 MB: most of a publish is spent in writing them
DEADLINE_S = 240.0


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


@contextmanager
def publishing(url: str, folder: str) -> Iterator[BaseProcess]:
    """A process that publishes; killed at the end."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["pytest", "tests.support.manifests"])  # imports once for all
    publisher = processes.Process(target=publish_forever, args=(url, folder, VALUES_A_ROW), daemon=True)
    publisher.start()
    try:
        yield publisher
    finally:
        publisher.kill()
        publisher.join()


def test_a_reader_never_sees_half_a_version(tmp_path: Path) -> None:
    random_ = random.Random(0)
    url, folder = f"file://{tmp_path}", "tiny"
    store = HeadStore(url, folder)
    deadline = time.monotonic() + DEADLINE_S
    last = reads = 0
    for _ in range(KILLS):
        with publishing(url, folder) as publisher:
            dies = store.attempts() + random_.randint(1, 3)
            while store.attempts() < dies:  # an attempt is claimed right before its version is written
                last = read(store, last)
                reads += 1
                assert publisher.is_alive()
                assert time.monotonic() < deadline
            for _ in range(random_.randint(0, 5)):
                last = read(store, last)
        last = read(store, last)
    whole = {found.version for found in store.versions()}
    assert 0 < len(whole) < store.attempts(), "no publish was cut short: the test killed too late"
    assert reads > KILLS

    number = store.claim_attempt()
    store.publish(manifest(number, last), tensors(number, VALUES_A_ROW))
    assert store.live().version == name(number)
    assert read(store, last) == number
