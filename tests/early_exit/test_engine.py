"""The engine: who leaves gets the head's answer, who stays the model's, and audits see both."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from layercache.early_exit.cascades import LayersCascade
from layercache.early_exit.cutting import cuts
from layercache.early_exit.cutting.costs import TimeTable
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Answers, Engine
from layercache.early_exit.heads.cache_heads import CacheHeads
from layercache.early_exit.heads.families import build_head
from layercache.early_exit.model import loading
from layercache.early_exit.policy import cascade
from layercache.schemas.manifest import Exit, HeadSpec, Manifest
from tests.cache_training.streams import pictures
from tests.support.manifests import overload as overload_of
from tests.support.tiny_model import TinyModel


@pytest.fixture
def traced(tiny_model: TinyModel) -> TracedModel:
    return cuts.trace(loading.load(tiny_model.settings))


def heads(
    traced: TracedModel, thresholds: dict[str, float], seed: int = 0, overload: tuple[float, ...] | None = None
) -> CacheHeads:
    """Untrained heads: their answers are arbitrary, so that nothing agrees by luck."""
    torch.manual_seed(seed)
    exits, modules = [], []
    for cut, threshold in thresholds.items():
        spec = HeadSpec(family="pooled", features=traced.cut(cut).shape, classes=3, grid=2)
        exits.append(Exit(cut=cut, head=spec, temperature=0.05, threshold=threshold, flops_share=0.5, time_share=0.5))
        modules.append(build_head(spec).eval())
    manifest = Manifest(
        version="v1", model=traced.classifier.fingerprint, model_name="tiny", created="", reason="first",
        predecessor=None, exits=tuple(exits), audit_rate=0.1, certificate=None, expected=None,
        overload=overload_of(overload) if overload else None,
    )  # fmt: skip
    return CacheHeads(manifest, tuple(modules))


def none(n: int) -> np.ndarray:
    return np.zeros(n, np.bool_)


def test_without_heads_it_is_the_model_bit_for_bit(traced: TracedModel) -> None:
    frames = pictures(9, seed=1)
    classifier = traced.classifier
    with torch.inference_mode():
        inputs = classifier.preprocessing.normalise(frames, torch.float32)
        expected = classifier.module(inputs.contiguous(memory_format=torch.channels_last)).numpy()
    answers = Engine(traced).run(frames, none(9))
    assert (answers.logits == expected).all()
    assert (answers.labels == expected.argmax(1)).all()
    assert (answers.exits == -1).all()
    assert answers.full_rows.tolist() == list(range(9))
    assert Engine(traced).audit_rate == 1.0


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    n=st.integers(1, 40), seed=st.integers(0, 10**6), thresholds=st.tuples(st.floats(0.3, 1.01), st.floats(0.3, 1.01)),
    audited=st.floats(0, 1),
)  # fmt: skip
def test_every_frame_gets_the_answer_that_the_policy_says(
    traced: TracedModel, n: int, seed: int, thresholds: tuple[float, float], audited: float
) -> None:
    frames = pictures(n, seed)
    audits = np.random.default_rng(seed).random(n) < audited
    engine = Engine(traced, heads(traced, {"first": thresholds[0], "second": thresholds[1]}))
    answers = engine.run(frames, audits)
    scores, labels = engine.score(frames)
    near = (np.abs(scores - np.array(thresholds)) < 1e-5).any(1)  # another batch size may round to the other side
    expected = cascade(scores, np.array(thresholds, np.float32))
    full = Engine(traced).run(frames, none(n))
    served = np.where(audits, -1, expected)
    assert (answers.exits == served)[~near].all()
    wanted = np.where(served < 0, full.labels, labels[np.arange(n), served])
    assert (answers.labels == wanted)[~near].all()
    assert sorted(answers.full_rows.tolist()) == np.flatnonzero(answers.exits < 0).tolist()
    np.testing.assert_allclose(answers.logits, full.logits[answers.full_rows], rtol=1e-4, atol=1e-4)
    rows = answers.full_rows
    kept = ~near[rows]
    assert (answers.live_exit == expected[rows])[kept].all()
    would = np.where(expected < 0, full.labels, labels[np.arange(n), expected])
    assert (answers.live_label == would[rows])[kept].all()
    np.testing.assert_allclose(answers.probabilities.sum(1), 1, atol=1e-4)


def test_a_frame_leaves_whose_score_is_just_its_threshold_as_it_did_in_the_certificate(traced: TracedModel) -> None:
    frames = pictures(1, 3)
    scores, _ = Engine(traced, heads(traced, {"first": 2.0})).score(frames)
    threshold = float(scores[0, 0])
    assert cascade(scores, np.array([threshold], np.float32)).tolist() == [0]
    assert Engine(traced, heads(traced, {"first": threshold})).run(frames, none(1)).exits.tolist() == [0]
    above = float(np.nextafter(scores[0, 0], np.float32(2)))
    assert Engine(traced, heads(traced, {"first": above})).run(frames, none(1)).exits.tolist() == [-1]


def test_a_score_is_the_largest_probability_at_the_exits_temperature(traced: TracedModel) -> None:
    engine = Engine(traced, heads(traced, {"first": 0.0}))
    told: list[Tensor] = []
    assert isinstance(engine._cascade, LayersCascade)
    engine._cascade._heads[0].register_forward_hook(lambda module, inputs, logits: told.append(logits))
    scores, labels = engine.score(pictures(5, 0))
    expected = (told[0] / 0.05).softmax(1)
    np.testing.assert_allclose(scores[:, 0], expected.max(1).values, rtol=1e-6)
    assert (labels[:, 0] == expected.argmax(1).numpy()).all()
    np.testing.assert_allclose(engine.run(pictures(5, 0), none(5)).probabilities, expected, rtol=1e-5, atol=1e-7)


def test_when_all_leave_the_rest_of_the_model_is_not_run(traced: TracedModel) -> None:
    engine = Engine(traced, heads(traced, {"first": 0.0, "second": 0.0}))
    answers = engine.run(pictures(6, 0), none(6))
    assert answers.exits.tolist() == [0] * 6
    assert answers.full_rows.size == answers.logits.shape[0] == 0
    assert set(engine.segment_ms()) == {"to first", "head first"}


def test_shadow_mode_serves_the_model_and_says_what_exits_would_have_said(traced: TracedModel) -> None:
    frames = pictures(12, 3)
    cache = heads(traced, {"first": 0.0})
    shadow = Engine(traced, cache, mode="shadow").run(frames, none(12))
    full = Engine(traced).run(frames, none(12))
    served = Engine(traced, cache).run(frames, none(12))
    assert (shadow.exits == -1).all()
    assert (shadow.labels == full.labels).all()
    assert (shadow.live_exit == 0).all()
    assert (shadow.live_label == served.labels).all()


def test_warming_up_leaves_no_times_behind(traced: TracedModel) -> None:
    engine = Engine(traced, heads(traced, {"first": 2.0}))
    engine.warm_up(8)
    assert engine.segment_ms() == {}
    engine.run(pictures(5, 0), none(5))
    assert list(engine.segment_ms()["to the end"]) == [5]


def test_times_are_kept_by_number_of_frames_those_up_to_a_power_of_two_together(traced: TracedModel) -> None:
    engine = Engine(traced)
    for n in (1, 5, 8, 8, 8, 8, 9):
        engine.run(pictures(n, 0), none(n))
    means = 8 - (8 - 5) * 0.9**4
    assert list(engine.segment_ms()["to the end"]) == [1, round(means), 9]
    assert TimeTable(engine.segment_ms()).pieces == ("to the end",)


def test_shrinking_keeps_the_layout_that_convolutions_are_fast_on(traced: TracedModel) -> None:
    frames = pictures(12, 3)
    scores, _ = Engine(traced, heads(traced, {"first": 2.0})).score(frames)
    half = float(np.median(scores[:, 0]))
    engine = Engine(traced, heads(traced, {"first": half}))
    seen: list[tuple[int, bool]] = []
    assert isinstance(engine._cascade, LayersCascade)
    engine._cascade._segments[-1].register_forward_pre_hook(
        lambda module, args: seen.append((len(args[0]), args[0].is_contiguous(memory_format=torch.channels_last)))
    )
    answers = engine.run(frames, none(12))
    assert seen == [((scores[:, 0] < half).sum(), True)]
    assert 0 < len(answers.full_rows) < 12


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    n=st.integers(1, 40), seed=st.integers(0, 10**6), everyday=st.tuples(st.floats(0.3, 1.01), st.floats(0.3, 1.01)),
    bolder=st.tuples(st.floats(0.3, 1.01), st.floats(0.3, 1.01)), audited=st.floats(0, 1),
)  # fmt: skip
def test_under_overload_other_thresholds_answer_and_audits_tell_of_both(
    traced: TracedModel,
    n: int,
    seed: int,
    everyday: tuple[float, float],
    bolder: tuple[float, float],
    audited: float,
) -> None:
    frames = pictures(n, seed)
    audits = np.random.default_rng(seed).random(n) < audited
    normal = Engine(traced, heads(traced, {"first": everyday[0], "second": everyday[1]}, overload=bolder))
    overloaded = normal.overloaded()
    assert overloaded is not None
    scores, labels = normal.score(frames)
    near = (np.abs(scores[:, None] - np.array((everyday, bolder))) < 1e-5).any((1, 2))
    full = Engine(traced).run(frames, none(n)).labels
    would = []
    for thresholds in (everyday, bolder):
        leaves = cascade(scores, np.array(thresholds, np.float32))
        would.append((leaves, np.where(leaves < 0, full, labels[np.arange(n), leaves])))
    for engine, (leaves, _) in zip((normal, overloaded), would, strict=True):
        answers = engine.run(frames, audits)
        assert (answers.exits == np.where(audits, -1, leaves))[~near].all()
        rows = answers.full_rows
        told = ~near[rows] & audits[rows]
        assert answers.overload_label is not None
        assert (answers.live_exit == would[0][0][rows])[told].all()
        assert (answers.live_label == would[0][1][rows])[told].all()
        assert (answers.overload_label == would[1][1][rows])[told].all()


def test_an_engine_says_which_budget_it_serves(traced: TracedModel) -> None:
    normal = Engine(traced, heads(traced, {"first": 0.9}, overload=(0.5,)))
    overloaded = normal.overloaded()
    assert overloaded is not None
    assert (normal.budget, normal.max_disagreement) == ("normal", None)  # not certified
    assert (overloaded.budget, overloaded.max_disagreement) == ("overload", 0.03)
    assert Engine(traced, heads(traced, {"first": 0.9})).overloaded() is None
    assert Engine(traced).overloaded() is None
    shadow = Engine(traced, heads(traced, {"first": 0.9}, overload=(0.5,)), "shadow").overloaded()
    assert shadow is not None
    assert shadow.max_disagreement is None  # nothing is answered by exits


def marked(frames: Tensor, *rows: int) -> Tensor:
    """The frames, these rows in a way that :class:`Spoilt` knows."""
    frames[list(rows)] = 255
    return frames


class Spoilt(Engine):
    """Of a model that makes NaN of white pictures."""

    def _enter(self, frames: Tensor) -> Tensor:
        x: Tensor = super()._enter(frames)
        x[(frames == 255).all((1, 2, 3))] = torch.nan
        return x


def test_a_frame_without_finite_logits_has_no_answer_and_spoils_no_others(traced: TracedModel) -> None:
    frames = pictures(6, 0)
    expected = Engine(traced).run(frames, none(6))
    answers = Spoilt(traced).run(marked(frames.clone(), 2, 5), none(6))
    assert answers.finite.tolist() == [True, True, False, True, True, False]
    kept = answers.only(answers.finite)
    assert kept.full_rows.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(kept.logits, expected.logits[[0, 1, 3, 4]], rtol=1e-4, atol=1e-5)


def test_a_head_whose_logits_are_not_finite_lets_nobody_leave(traced: TracedModel) -> None:
    engine = Engine(traced, heads(traced, {"first": 0.0}, overload=(0.0,)))

    def spoil_first(module: nn.Module, inputs: object, logits: Tensor) -> Tensor:
        logits[0], logits[1] = torch.nan, torch.inf
        return logits

    assert isinstance(engine._cascade, LayersCascade)
    engine._cascade._heads[0].register_forward_hook(spoil_first)
    answers = engine.run(pictures(4, 0), none(4))
    assert answers.exits.tolist() == [-1, -1, 0, 0]
    assert answers.live_exit.tolist() == [-1, -1]
    assert answers.finite.all()
    assert engine.score(pictures(4, 0))[0][:2].tolist() == [[-1.0], [-1.0]], "no threshold of a trainer lets them go"


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(n=st.integers(1, 12), seed=st.integers(0, 10**6), cut=st.integers(0, 12), kept=st.integers(0, 2**12 - 1))
def test_answers_can_be_taken_apart_and_joined(traced: TracedModel, n: int, seed: int, cut: int, kept: int) -> None:
    frames = pictures(n, seed)
    engine = Engine(traced, heads(traced, {"first": 0.5, "second": 0.5}, overload=(0.4, 0.4)))
    whole = engine.run(frames, np.random.default_rng(seed).random(n) < 0.5)
    first = np.arange(n) < cut
    parts = [whole.only(rows) for rows in (first, ~first) if rows.any()]
    some = np.array([kept >> row & 1 for row in range(n)], np.bool_)
    for field in fields(Answers):
        assert (getattr(Answers.joined(parts), field.name) == getattr(whole, field.name)).all()
    few = whole.only(some)
    assert (few.labels == whole.labels[some]).all()
    assert (few.exits[few.full_rows] == -1).all()
    assert len(few.full_rows) == len(few.logits) == len(few.live_exit) == (few.exits == -1).sum()
    assert (few.logits.argmax(1) == few.labels[few.full_rows]).all()
