"""The trainer in one's own loop: it learns from what the model answered, and opens exits that keep the promise."""

import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from examples import own_loop
from layercache.api.model import EarlyExitModel
from layercache.api.training import OnlineTrainer
from layercache.early_exit.engine import Engine
from layercache.schemas.settings import Promise, Trainer
from testbed.waiting import wait_until
from tests.cache_training.streams import pictures
from tests.support import tiny_model as tiny
from tests.support.tiny_model import TinyModel

BUDGET = 0.05
SETTINGS = Trainer(replay_mb=64, ring_mb=64)


@pytest.fixture
def model(tiny_model: TinyModel, tmp_path: Path) -> EarlyExitModel:
    return made(tiny_model, tmp_path)


def made(files: TinyModel, folder: Path) -> EarlyExitModel:
    """Heads in ``folder``, looked for when asked alone."""
    return EarlyExitModel.from_spec(
        files.settings.spec,
        files.settings.weights,
        store=f"file://{folder}/heads",
        promise=Promise(max_disagreement=BUDGET),
        refresh_s=None,
        runtime=files.settings.runtime,
    )


def observed(model: EarlyExitModel, trainer: OnlineTrainer, frames: int, seed: int = 0) -> None:
    """A stream of independent frames, answered and observed."""
    for start in range(0, frames, 50):
        trainer.observe(model(pictures(50, seed=seed + start)))


def test_it_opens_exits_that_keep_the_promise_and_save_flops(model: EarlyExitModel) -> None:
    trainer = OnlineTrainer(model, settings=SETTINGS)
    observed(model, trainer, 1500)
    published = None
    for _ in range(60):
        published = trainer.step(0.2)
        if published:
            break
    assert published is not None, trainer.progress()
    assert published == trainer.heads_version == model.heads_version  # in force at once
    assert model.store is not None
    manifest, _ = model.store.load(published)
    assert manifest.certificate is not None
    assert manifest.certificate.upper_bound <= BUDGET
    before = model.statistics()
    fresh = pictures(2000, seed=10**6)
    answers = model(fresh)
    full = Engine(model.traced).run(fresh, np.ones(2000, np.bool_)).labels
    assert (np.array(answers.exits) != "full").mean() > 0.2
    assert (answers.labels != full).mean() <= BUDGET
    now = model.statistics()
    spent = now.flops_share * now.frames - before.flops_share * before.frames
    assert spent / 2000 < 0.95


def test_it_learns_beside_the_loop_in_a_thread(model: EarlyExitModel) -> None:
    with OnlineTrainer(model, settings=SETTINGS) as trainer:
        assert trainer.running
        observed(model, trainer, 1500)
        wait_until(lambda: trainer.heads_version is not None, "a version", 120)
    assert not trainer.running
    assert model.refresh()
    assert model.heads_version == trainer.heads_version
    answers = model(pictures(3, 0))
    answers.take_records()  # whether or not there is anything to learn from them
    with pytest.raises(RuntimeError, match="has been stopped"):
        trainer.observe(answers)


def test_torchs_threads_are_limited_for_the_trainer_alone(
    model: EarlyExitModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def threads_of_another() -> int:
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return found[0]

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        trainer, own = OnlineTrainer(model, settings=SETTINGS), list[int]()

        def work() -> float:
            own.append(torch.get_num_threads())
            return 0.01

        monkeypatch.setattr(trainer._trainer, "work", work)
        with trainer:
            wait_until(lambda: bool(own), "the thread's first turn", 20)
            assert (own[0], torch.get_num_threads(), threads_of_another()) == (1, 3, 3)
    finally:
        torch.set_num_threads(before)


def test_answers_teach_once_however_often_they_are_shown(model: EarlyExitModel) -> None:
    trainer = OnlineTrainer(model, settings=SETTINGS)
    answers = model(pictures(10, 0))
    trainer.observe(answers)
    trainer.observe(answers)
    assert trainer.progress().audits == 10


def test_another_models_answers_are_refused(model: EarlyExitModel, tmp_path: Path) -> None:
    other = made(tiny.write(tmp_path / "other", seed=5), tmp_path)
    trainer, _ = OnlineTrainer(model, settings=SETTINGS), OnlineTrainer(other, settings=SETTINGS)
    with pytest.raises(ValueError, match=f"these answers are model {other.classifier.fingerprint[:12]}'s"):
        trainer.observe(other(pictures(3, 0)))


def test_without_a_store_there_is_nowhere_to_publish(tiny_model: TinyModel) -> None:
    model = EarlyExitModel.from_spec(tiny_model.settings.spec, tiny_model.settings.weights, runtime="torch")
    with pytest.raises(ValueError, match="give the model a store"):
        OnlineTrainer(model)


def test_it_goes_on_after_a_restart(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = made(tiny_model, tmp_path)
    first = OnlineTrainer(model, settings=SETTINGS, state_dir=tmp_path / "state")
    observed(model, first, 300)
    first.step(0.1)
    first.stop()
    views = first.progress().views
    assert views > 0
    model = made(tiny_model, tmp_path)
    second = OnlineTrainer(model, settings=SETTINGS, state_dir=tmp_path / "state")
    assert (second.progress().audits, second.progress().views) == (300, views)
    observed(model, second, 100)  # a new model's positions are new ones
    assert second.progress().audits == 400


def test_stepping_beside_its_own_thread_is_refused(model: EarlyExitModel) -> None:
    with OnlineTrainer(model, settings=SETTINGS) as trainer, pytest.raises(RuntimeError, match="nothing to step"):
        trainer.step()


def test_a_failure_of_the_thread_reaches_the_loop(model: EarlyExitModel, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = OnlineTrainer(model, settings=SETTINGS)

    def broken(*_: object) -> None:
        raise ArithmeticError("no more numbers")

    monkeypatch.setattr(trainer._trainer, "work", broken)
    trainer.start()
    wait_until(lambda: not trainer.running, "the end of the thread", 20)
    with pytest.raises(RuntimeError, match="the trainer has failed: no more numbers"):
        trainer.observe(model(pictures(3, 0)))
    with pytest.raises(RuntimeError, match="the trainer has failed"):
        trainer.stop()


@pytest.mark.slow
@pytest.mark.timeout(600)  # alone it takes a minute, beside three others more
def test_the_demos_model_leaves_early_within_its_budget(capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        own_loop.main(2_000)
    finally:
        torch.set_num_threads(before)
    said = capsys.readouterr().out
    line = r"of the last 1,000, (\d+)% left early, (\d+)% of the time and \d+% of the FLOPs were spent, and (\d+) had"
    told = re.findall(line, said)
    early, spent, others = np.array(told, np.int64).T
    assert len(told) == 2, said
    assert early[-1] > 10, said
    assert spent[-1] < 100, said
    assert others.sum() <= 0.01 * 2_000, said
