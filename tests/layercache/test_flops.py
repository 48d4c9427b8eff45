"""What a frame costs: engine, user's model, dashboard, demo and report read it off one table, and say the same."""

from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from layercache.api.model import EarlyExitModel
from layercache.dashboard.board import Board
from layercache.dashboard.gathered import Gathered
from layercache.dashboard.heads import HeadsView, ModelChoice
from layercache.early_exit.store.head_store import HeadStore
from layercache.report import exam
from layercache.schemas.manifest import Manifest, flops_shares
from layercache.schemas.prediction import FULL, Prediction
from layercache.schemas.settings import Settings, Store
from tests.layercache.demo_streams import manifest as demo_manifest
from tests.stream import builders
from tests.support.kafka_records import answer, answered
from tests.support.tiny_model import TinyModel

#: Of the whole model's FLOPs, with the heads of the exits that a frame passes.
PAST_ALL_EXITS = 1.02
NOW_MS = 1_700_000_000_000


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/heads"


@pytest.fixture
def model(tiny_model: TinyModel, url: str) -> EarlyExitModel:
    settings = tiny_model.settings
    return EarlyExitModel.from_spec(settings.spec, settings.weights, store=url, refresh_s=None, runtime="torch")


@pytest.fixture
def version(model: EarlyExitModel) -> tuple[Manifest, dict[str, Tensor]]:
    manifest, tensors = builders.heads(model.traced, threshold=2.0)  # no frame is ever so sure
    return msgspec.structs.replace(manifest, full_flops_share=PAST_ALL_EXITS), tensors


@pytest.fixture
def store(model: EarlyExitModel, version: tuple[Manifest, dict[str, Tensor]]) -> HeadStore:
    assert model.store is not None
    model.store.publish(*version)
    model.refresh()
    return model.store


def spent_by_the_model(model: EarlyExitModel, frames: int = 8) -> float:
    """FLOPs of the next frames, each as a share of the plain model's."""
    before = model.statistics()
    model(torch.stack([builders.picture("red", n) for n in range(frames)]))
    after = model.statistics()
    return (after.flops_share * after.frames - before.flops_share * before.frames) / frames


def told_by_the_dashboard(url: str, predictions: list[Prediction]) -> float:
    """The mean that a dashboard shows which sees the store first, and these predictions then."""
    choice = ModelChoice()
    view = HeadsView(Store(url=url), choice, Board())
    view.look()
    found = Gathered(Settings(), choice, lambda: NOW_MS)
    found.snapshot(view.seen, (), has_metrics=False)
    found.take_predictions(answered(*predictions))
    saved = found.snapshot(view.seen, (), has_metrics=False).now.flops_saved
    assert saved is not None
    return 1 - saved


def full_path(model: EarlyExitModel, version: str | None, max_disagreement: float | None = None) -> Prediction:
    """The prediction of a frame that no exit answered; ``max_disagreement``: the budget of those that were open."""
    given = answer(0, NOW_MS - 1_000, FULL, version, model.classifier.fingerprint)
    return msgspec.structs.replace(given, max_disagreement=max_disagreement)


def test_a_frames_flops_are_its_exits_the_full_paths_or_without_heads_the_plain_models() -> None:
    shares = flops_shares(demo_manifest("v1", {"layer1": 0.3, "layer2": 0.5}))
    assert list(shares.items()) == [("layer1", 0.3), ("layer2", 0.5), (FULL, 1.02)]
    nothing_open = demo_manifest("v2", {})
    assert flops_shares(None) == flops_shares(nothing_open) == {FULL: 1.0}
    assert flops_shares(msgspec.structs.replace(nothing_open, full_flops_share=1.02)) == {FULL: 1.0}


def test_past_all_exits_a_frame_pays_for_their_heads(model: EarlyExitModel, store: HeadStore, url: str) -> None:
    assert spent_by_the_model(model) == pytest.approx(PAST_ALL_EXITS)
    open_exits = full_path(model, store.live().version, max_disagreement=0.01)
    assert told_by_the_dashboard(url, [open_exits]) == pytest.approx(PAST_ALL_EXITS)


def test_while_an_operator_keeps_all_exits_closed_no_head_runs_and_none_is_charged(
    model: EarlyExitModel, store: HeadStore, url: str
) -> None:
    version = store.live().version
    store.close("looks odd")
    model.refresh()
    assert spent_by_the_model(model) == pytest.approx(1.0)
    assert model.heads_version == version, "the prediction names the version whose exits are closed"
    assert told_by_the_dashboard(url, [full_path(model, version)]) == pytest.approx(1.0)
    earlier = full_path(model, version, max_disagreement=0.01)  # from before, when exits were open
    assert told_by_the_dashboard(url, [earlier]) == pytest.approx(PAST_ALL_EXITS)


def test_exits_that_the_workers_audits_closed_are_scored_still_and_charged(
    model: EarlyExitModel, store: HeadStore, url: str
) -> None:
    closed_by_audits = full_path(model, store.live().version)  # no budget: nothing was served by exits
    assert told_by_the_dashboard(url, [closed_by_audits]) == pytest.approx(PAST_ALL_EXITS)


def test_the_report_charges_no_heads_where_none_is_open(
    model: EarlyExitModel, version: tuple[Manifest, dict[str, Tensor]]
) -> None:
    manifest, tensors = version
    nothing_open = msgspec.structs.replace(manifest, exits=())
    known = exam.Known(np.zeros(4, np.int64), np.ones(4, np.float32), np.full(4, -1), np.arange(4, dtype=np.uint64))
    answers = exam.Answered(np.full(4, -1, np.int16), np.zeros(4, np.int64))
    for given, spent in ((manifest, PAST_ALL_EXITS), (nothing_open, 1.0)):
        paper = exam.Paper.of(0.01, model.traced, given, cast(Any, tensors))
        result = exam.result(paper, answers, known, np.ones(4, np.bool_))
        assert result is not None and result.flops_saved == pytest.approx(1 - spent)
