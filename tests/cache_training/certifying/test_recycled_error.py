"""The certifier fixes its target before it looks, and tells the store what an attempt leaves to the next one."""

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from benchmarks.promise.runs import Scenario, Simulated
from benchmarks.promise.simulated_heads import Cliff, Turning
from benchmarks.promise.simulated_streams import Floats, Independent, Latents
from layercache.cache_training.certifying import certifier, versions
from layercache.cache_training.certifying.attempt import Attempt
from layercache.cache_training.certifying.certificate import attempt_error
from layercache.cache_training.certifying.threshold_family import DOUBTS, ThresholdFamily
from layercache.cache_training.certifying.windows import LeakError
from layercache.early_exit.store.head_store import HeadStore, StoreError
from layercache.schemas.attempt import AttemptClaim, AttemptOutcome
from layercache.schemas.manifest import CompiledPath, Manifest
from layercache.schemas.settings import Promise
from tests.support.manifests import manifest

PROMISE = Promise(max_disagreement=0.05, confidence=0.8)
#: Never wrong, and more is saved all the time.
BETTER = Scenario("better", PROMISE, Independent, lambda: Turning(0.0, turns_after=10**9), longest=40_000)
#: The safest settings are safe; the target is at three times the budget.
MISSED = replace(BETTER, heads=lambda: Cliff(0.15))
ALL, SECOND = attempt_error(1, 0.8), attempt_error(2, 0.8)


@pytest.fixture
def store(tmp_path: Path) -> HeadStore:
    return HeadStore(f"file://{tmp_path / 'heads'}", "simulated")


def attempt(simulated: Simulated, steps: int = 100) -> tuple[AttemptClaim, AttemptOutcome | None]:
    """Audits until another attempt has ended; its claim and its outcome."""
    store = simulated.published.store
    before = store.attempts()
    for _ in range(steps):
        simulated.step()
        if store.attempts() > before and not simulated.under_way:
            claim = store.attempt_claim(before + 1)
            assert claim is not None
            return claim, store.attempt_outcome(before + 1)
    raise AssertionError(f"nothing attempted in {simulated.intake.audits} audits")


def live(simulated: Simulated) -> Manifest:
    manifest = simulated.published.live
    assert manifest is not None
    return manifest


def errors(claim: AttemptClaim) -> float:
    return sum(test.error for test in (claim.normal, claim.overload) if test)


def test_the_second_attempt_has_what_the_first_did_not_need(store: HeadStore) -> None:
    simulated = Simulated(BETTER, 1, store)
    first, ended = attempt(simulated)
    assert first.normal is not None
    assert ended is not None
    assert (errors(first), first.consumes, first.confidence) == (ALL, (), 0.8)
    assert first.lineage == simulated.intake.lineage
    assert (first.normal.bolder, ended.normal) == (False, first.normal.target)
    second, _ = attempt(simulated)
    assert second.consumes == (1,)
    assert errors(second) == pytest.approx(ALL + SECOND)
    assert len(second.family) == 64
    certificate = live(simulated).certificate
    assert certificate is not None
    assert (certificate.attempt, certificate.recycled, certificate.recycled_from) == (2, ALL, (1,))
    assert certificate.error == pytest.approx(ALL + SECOND)
    assert certificate.p_value <= certificate.error


def test_successes_leave_nearly_everything_to_the_next_attempt(store: HeadStore) -> None:
    simulated = Simulated(replace(BETTER, heads=lambda: Turning(0.0, turns_after=10**9, step=500)), 1, store)
    claims = [attempt(simulated)[0] for _ in range(6)]
    assert errors(claims[-1]) == pytest.approx(0.2 * (1 - 1 / 7))


def test_a_target_that_fails_passes_nothing_on_though_something_safer_is_certified(store: HeadStore) -> None:
    simulated = Simulated(MISSED, 1, store)
    first, ended = attempt(simulated)
    assert first.normal is not None
    assert ended is not None
    assert ended.normal is not None
    assert 0 <= ended.normal < first.normal.target
    assert live(simulated).exits  # and published
    second, _ = attempt(simulated)
    assert second.consumes == ()
    assert errors(second) == SECOND


def test_the_target_is_claimed_before_anyone_looks(store: HeadStore) -> None:
    """What the frames say changes nothing in the claim: heads that are right and heads that are wrong get the same."""
    claims = []
    for number, heads in enumerate((lambda: Cliff(0.0), lambda: Cliff(0.15))):
        simulated = Simulated(
            replace(BETTER, heads=heads), 1, HeadStore("memory://targets", f"{number}-{store.url[-20:]}")
        )
        claims.append(attempt(simulated))
    (right, all_passed), (wrong, some_passed) = claims
    assert right.normal == wrong.normal
    assert right.family == wrong.family
    assert all_passed is not None
    assert some_passed is not None
    assert all_passed.normal != some_passed.normal
    # And it is what tuning chose: the setting at which a second third of the frames leaves.
    assert right.normal is not None
    assert DOUBTS[right.normal.target] >= 0.01


def test_settings_beyond_the_target_are_not_looked_at_unless_that_was_claimed(store: HeadStore) -> None:
    """Of heads that are never wrong every setting would pass."""
    simulated = Simulated(BETTER, 1, store)
    first, ended = attempt(simulated)
    assert first.normal is not None
    assert ended is not None
    assert ended.normal == first.normal.target < len(DOUBTS) - 1


@dataclass
class Gradual(Turning):
    """Never wrong, and with every audit less in doubt; a little bolder always saves a little more."""

    def doubts(self, latents: Latents) -> Floats:
        return (0.5 / (1 + self._seen / 3000) * latents.difficulty)[:, None]


def until_bolder(simulated: Simulated) -> tuple[AttemptClaim, AttemptOutcome]:
    for _ in range(12):
        claim, ended = attempt(simulated)
        assert ended is not None
        if claim.normal is not None and claim.normal.bolder:
            return claim, ended
    raise AssertionError("no attempt was bold")


def test_half_of_the_error_is_for_bolder_settings_where_they_are_worth_it(store: HeadStore) -> None:
    simulated = Simulated(replace(BETTER, heads=lambda: Gradual(0.0, turns_after=10**9)), 1, store)
    claim, ended = until_bolder(simulated)
    assert claim.normal is not None
    assert ended.normal == len(DOUBTS) - 1 > claim.normal.target
    certificate = live(simulated).certificate
    assert certificate is not None
    assert certificate.error == pytest.approx(errors(claim) / 2)  # it is a bolder setting that was published
    number = store.attempts()
    # That version saves all there is, so that nothing is worth a further attempt; this is what one would have.
    following = simulated._certifier.ledger.next_share(PROMISE.confidence)
    assert following.consumes == (number,)
    assert following.total == pytest.approx(errors(claim) / 2 + attempt_error(number + 1, 0.8))


def test_certified_is_enough_published_or_not(store: HeadStore, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = Simulated(BETTER, 1, store)
    monkeypatch.setattr(certifier.Certifier, "_improves_on_live", lambda *_: False)
    attempt(simulated)
    assert store.latest() is None
    assert errors(attempt(simulated)[0]) == pytest.approx(ALL + SECOND)


def test_a_restart_takes_up_what_was_passed_on_and_another_trainer_does_not(store: HeadStore) -> None:
    simulated = Simulated(BETTER, 1, store)
    attempt(simulated)
    another = Simulated(BETTER, 2, store)
    assert another.intake.lineage != simulated.intake.lineage
    second, _ = attempt(another)
    assert (second.consumes, errors(second)) == ((), SECOND)
    again = Simulated(BETTER, 3, store)
    again.intake.restore(simulated.intake.tensors())
    again.heads.learn = lambda *_: None  # type: ignore[method-assign]
    again.heads._seen = 10_000  # type: ignore[attr-defined]
    third, _ = attempt(again)
    assert third.consumes == (1,)
    assert errors(third) == pytest.approx(ALL + attempt_error(3, 0.8))


def test_a_checkpoint_of_an_earlier_trainer_has_no_lineage(store: HeadStore) -> None:
    simulated = Simulated(BETTER, 1, store)
    simulated.step()
    tensors = simulated.intake.tensors()
    del tensors["lineage"]
    again = Simulated(BETTER, 2, store)
    fresh = again.intake.lineage
    again.intake.restore(tensors)
    assert again.intake.lineage == fresh != simulated.intake.lineage


def killed(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["durable", "scores", "outcome"])
def test_a_trainer_killed_between_claim_and_outcome_passes_nothing_on(
    where: str, store: HeadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated = Simulated(BETTER, 1, store)
    attempt(simulated)  # its share is consumed by the attempt that is cut short
    with monkeypatch.context() as patched:
        match where:
            case "durable":
                patched.setattr(simulated, "meanwhile", killed)
            case "scores":
                patched.setattr(Attempt, "run", killed)
            case "outcome":
                patched.setattr(store, "finish_attempt", killed)
        with pytest.raises(KeyboardInterrupt):
            attempt(simulated)
    cut_short = store.attempt_claim(2)
    assert cut_short is not None
    assert cut_short.consumes == (1,)
    simulated.start()
    third, _ = attempt(simulated)
    assert (third.consumes, errors(third)) == ((), attempt_error(3, 0.8))
    assert store.attempt_outcome(2) is None


def test_frames_that_leak_pass_nothing_on(store: HeadStore, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = Simulated(BETTER, 1, store)

    def leak() -> None:
        raise LeakError("learnt from")

    with monkeypatch.context() as patched:
        patched.setattr(simulated.windows, "check_apart", leak)
        with pytest.raises(LeakError):
            attempt(simulated)
    assert (store.attempts(), store.attempt_outcome(1)) == (1, None)
    assert errors(attempt(simulated)[0]) == SECOND


def test_a_full_disk_delays_an_outcome_and_what_it_passes_on_but_no_version(
    store: HeadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated = Simulated(BETTER, 1, store)

    def full(*_: object) -> bool:
        raise StoreError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store, "finish_attempt", full)
        attempt(simulated)
        assert live(simulated).exits
        assert store.attempt_outcome(1) is None
        simulated.heads.learn = lambda *_: None  # type: ignore[method-assign]
        simulated.heads._seen = 10_000  # type: ignore[attr-defined]
        second, _ = attempt(simulated)
        assert errors(second) == SECOND
    simulated.heads._seen = 20_000  # type: ignore[attr-defined]
    third, _ = attempt(simulated)
    assert third.consumes == (1, 2)
    assert errors(third) == pytest.approx(ALL + SECOND + attempt_error(3, 0.8))


def test_the_outcome_is_there_before_its_version_is(store: HeadStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a trainer that is killed in between has lost a version, which it may certify again, and no error."""
    simulated = Simulated(BETTER, 1, store)
    monkeypatch.setattr(store, "publish", killed)
    with pytest.raises(KeyboardInterrupt):
        attempt(simulated)
    assert store.attempt_outcome(1) is not None


def test_while_an_attempt_is_under_way_another_one_gets_nothing_of_it(store: HeadStore) -> None:
    first, second = Simulated(BETTER, 1, store), Simulated(BETTER, 2, store)
    second.intake.lineage = first.intake.lineage  # both from one checkpoint
    claims: list[AttemptClaim] = []
    first.meanwhile = lambda: claims.append(attempt(second)[0])
    attempt(first)
    first.meanwhile = lambda: None
    assert (claims[0].consumes, errors(claims[0])) == ((), SECOND)
    third, _ = attempt(first)
    assert third.consumes == (1, 2)
    fourth, _ = attempt(second)
    assert fourth.consumes == (3,)


def test_overload_has_its_own_target(store: HeadStore) -> None:
    two = replace(BETTER, promise=PROMISE.model_copy(update={"overload_max_disagreement": 0.1}))
    simulated = Simulated(two, 1, store)
    first, ended = attempt(simulated)
    assert first.normal is not None
    assert first.overload is not None
    assert ended is not None
    assert first.overload.target > first.normal.target
    assert errors(first) == pytest.approx(ALL)
    passed_on = first.normal.error * (ended.normal is not None and ended.normal >= first.normal.target)
    passed_on += first.overload.error * (ended.overload is not None and ended.overload >= first.overload.target)
    assert passed_on > 0
    assert errors(attempt(simulated)[0]) == pytest.approx(passed_on + SECOND)


def test_another_confidence_gets_nothing(store: HeadStore) -> None:
    simulated = Simulated(BETTER, 1, store)
    attempt(simulated)
    simulated.published.promise = PROMISE.model_copy(update={"confidence": 0.7})
    second, _ = attempt(simulated)
    assert second.consumes == ()
    assert errors(second) == pytest.approx(0.05)


def test_a_claim_names_the_very_heads() -> None:
    """Also those that no file takes as they lie in memory: convolutions with their channels last, and counters."""
    draft = manifest(0)
    weights = torch.rand(8, 4, 3, 3).to(memory_format=torch.channels_last)
    heads = {"first.0.weight": weights, "first.1.num_batches_tracked": torch.tensor(7)}
    family = ThresholdFamily(np.full((2, 1), 0.9, np.float32), np.zeros(2), np.zeros(2))
    named = versions.family_hash(draft, heads, family)
    assert named == versions.family_hash(draft, {name: tensor.contiguous() for name, tensor in heads.items()}, family)
    other = {
        "another weight": (draft, heads | {"first.0.weight": weights + 1e-6}),
        "another counter": (draft, heads | {"first.1.num_batches_tracked": torch.tensor(8)}),
        "another temperature": (
            msgspec.structs.replace(draft, exits=(msgspec.structs.replace(draft.exits[0], temperature=1.6),)),
            heads,
        ),
        "another path": (
            msgspec.structs.replace(draft, path=CompiledPath(precision="int8", graphs=("ab" * 32,))),
            heads,
        ),
    }
    for what, (changed, tensors) in other.items():
        assert versions.family_hash(changed, tensors, family) != named, what
    bolder = replace(family, thresholds=family.thresholds * np.float32(0.99))
    assert versions.family_hash(draft, heads, bolder) != named, "other settings"
