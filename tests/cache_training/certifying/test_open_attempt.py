"""An attempt whose target fails goes on with the same heads, until it passes or no look is left."""

import logging
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from torch import Tensor

from benchmarks.promise.runs import Scenario, Simulated
from benchmarks.promise.simulated_heads import Cliff, Flat
from benchmarks.promise.simulated_streams import Independent
from layercache.cache_training.certifying.certificate import attempt_error
from layercache.cache_training.learning.kept_frames import Frames
from layercache.early_exit.store.head_store import HeadStore
from layercache.schemas.distillation import DistillationBatch
from layercache.schemas.manifest import Manifest
from layercache.schemas.settings import Promise

#: Few audits at a time. The target is wrong so seldom that it passes at one of the looks, though not at the first.
CLOSE = Scenario("close", Promise(), Independent, lambda: Cliff(0.0012), frames_at_once=40)
HOPELESS = replace(CLOSE, heads=lambda: Flat(0.2))
ERROR = attempt_error(1, 0.95)


@pytest.fixture
def store(tmp_path: Path) -> HeadStore:
    return HeadStore(f"file://{tmp_path / 'heads'}", "simulated")


def until_under_way(scenario: Scenario, store: HeadStore, seed: int = 0) -> Simulated:
    """A trainer whose first attempt has looked once, and waits."""
    simulated = Simulated(scenario, seed, store)
    while not store.attempts():
        simulated.step()
    assert simulated.under_way
    return simulated


def finish(simulated: Simulated) -> None:
    while simulated.under_way:
        simulated.step()


def test_it_goes_on_with_more_frames_and_ends_at_the_look_at_which_its_target_passes(
    store: HeadStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    simulated = until_under_way(CLOSE, store)
    claim = store.attempt_claim(1)
    assert claim is not None
    assert claim.normal is not None
    assert simulated.published.live is None
    assert not simulated._certifier.is_ready()
    finish(simulated)
    ended, live = store.attempt_outcome(1), simulated.published.live
    assert ended is not None
    assert live is not None
    assert live.certificate is not None
    assert store.attempts() == 1
    assert claim.looks == (432, 504, 576, 648, 720)
    assert 1 < live.certificate.looks == simulated._certifier.looks <= len(claim.looks)
    assert claim.looks[0] < live.certificate.frames < claim.looks[-1]
    assert live.certificate.p_value <= live.certificate.error == ERROR
    assert live.certificate.upper_bound <= 0.01
    assert "attempt 1 goes on after look 1: " in caplog.text


def test_every_look_is_at_the_heads_as_they_were_when_it_began_and_at_new_frames(store: HeadStore) -> None:
    simulated = Simulated(CLOSE, 0, store)
    scored: list[tuple[Manifest, dict[str, Tensor], set[int]]] = []
    score = simulated._score

    def spy(
        manifest: Manifest, tensors: dict[str, Tensor], frames: Frames
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        scored.append((manifest, tensors, set(frames.position.tolist())))
        return score(manifest, tensors, frames)

    simulated._certifier._score = spy
    while not store.attempts() or simulated.under_way:
        simulated.step()
    assert len(scored) > 1
    assert len({id(tensors) for _, tensors, _ in scored}) == len({manifest.created for manifest, _, _ in scored}) == 1
    assert len(set().union(*(frames for *_, frames in scored))) == sum(len(frames) for *_, frames in scored)


def test_at_the_last_look_it_ends_with_nothing(store: HeadStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    simulated = until_under_way(HOPELESS, store)
    finish(simulated)
    claim, ended = store.attempt_claim(1), store.attempt_outcome(1)
    assert claim is not None
    assert ended is not None
    assert (ended.normal, simulated.published.live) == (None, None)
    (line,) = [line for line in caplog.messages if line.endswith("certified nothing")]
    assert int(line.split()[3]) >= claim.looks[-1]


def test_a_trainer_that_is_killed_meanwhile_has_spent_the_error(store: HeadStore) -> None:
    simulated = until_under_way(CLOSE, store)
    simulated.start()
    assert not simulated.under_way
    assert store.attempt_outcome(1) is None
    while store.attempts() < 2:
        simulated.step()
    second = store.attempt_claim(2)
    assert second is not None
    assert second.normal is not None
    assert second.consumes == ()
    assert second.normal.error == attempt_error(2, 0.95)


def test_where_every_exit_closes_meanwhile_it_ends_with_nothing(store: HeadStore) -> None:
    simulated = until_under_way(CLOSE, store)
    simulated._certifier.close()
    ended, live = store.attempt_outcome(1), simulated.published.live
    assert not simulated.under_way
    assert ended is not None
    assert ended.normal is None
    assert live is not None
    assert live.reason == "unsafe"


def test_it_ends_where_fewer_frames_are_audited_than_when_it_began(
    store: HeadStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    simulated = until_under_way(CLOSE, store)
    following = simulated.stream.next

    def seldom(n: int) -> DistillationBatch:
        batch = following(n)
        return replace(batch, header=msgspec.structs.replace(batch.header, audit_rate=0.5))

    simulated.stream.next = seldom  # type: ignore[method-assign]
    finish(simulated)
    assert "attempt 1 ends: fewer frames are audited than when it began, or keys have come" in caplog.text
    assert store.attempt_outcome(1) is not None
    assert simulated._certifier.looks == 1


def test_it_ends_where_frames_have_keys_that_had_none_when_it_began(store: HeadStore) -> None:
    """By then they count together; those before counted singly."""
    simulated = until_under_way(CLOSE, store)
    following = simulated.stream.next

    def keyed(n: int) -> DistillationBatch:
        batch = following(n)
        return replace(batch, key_hash=np.arange(1, len(batch) + 1))

    simulated.stream.next = keyed  # type: ignore[method-assign]
    finish(simulated)
    assert simulated._certifier.looks == 1
    assert store.attempt_outcome(1) is not None


def test_at_the_end_of_a_stream_it_looks_at_what_there_is(store: HeadStore) -> None:
    simulated = until_under_way(CLOSE, store)
    simulated.step()
    simulated._certifier.conclude()
    assert not simulated.under_way
    assert store.attempt_outcome(1) is not None
    simulated._certifier.conclude()
    assert simulated._certifier.looks <= 3


def test_what_it_certifies_follows_the_version_that_is_live_by_then(store: HeadStore) -> None:
    simulated = until_under_way(CLOSE, store)
    other = Simulated(replace(CLOSE, heads=lambda: Flat(0.0, honest=True)), 7, store)
    other._certifier.close()  # an operator's or another trainer's version
    finish(simulated)
    assert simulated.published.live is not None
    assert simulated.published.live.predecessor == other.published.live.version  # type: ignore[union-attr]
