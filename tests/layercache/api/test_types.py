"""What users' type checkers see of the API: ``make types`` checks these lines, and here they run.

Calls that a checker must refuse carry a ``type: ignore`` that it would report were it unused.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from typing import assert_type

import numpy as np
import numpy.typing as npt
import pytest
from torch import nn

import layercache
from layercache.schemas.settings import Settings


@pytest.fixture
def model() -> layercache.EarlyExitModel:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    grey = layercache.Preprocessing(size=(8, 8), mean=(0.5,), std=(0.5,))
    return layercache.EarlyExitModel(
        module, grey, classes=["cat", "dog"], store="memory://types", refresh_s=None, runtime="torch"
    )


def test_a_models_answers_have_types(model: layercache.EarlyExitModel) -> None:
    answers = assert_type(model(np.zeros((8, 8), np.uint8), key="camera-1"), layercache.ModelAnswers)
    assert_type(answers.labels, npt.NDArray[np.int64])
    assert_type(answers[0], layercache.ModelAnswer)
    assert_type([answer.class_name for answer in answers], list[str])
    assert_type(model.statistics(), layercache.Statistics)
    assert_type(model.store, layercache.HeadStore | None)
    with pytest.raises(ValueError, match="a picture is bytes"):
        model([1.5])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        layercache.EarlyExitModel(nn.Flatten(), nonsense=1)  # type: ignore[call-arg]


def test_a_trainers_steps_have_types(model: layercache.EarlyExitModel) -> None:
    trainer = layercache.OnlineTrainer(model, settings=layercache.TrainerSettings(ring_mb=8, replay_mb=8))
    assert_type(trainer.step(0.0), str | None)
    assert_type(trainer.progress(), layercache.Progress)


def clients_have_types(client: layercache.Client) -> None:
    """Needs a broker to run: only looked at by ``make types``."""
    assert_type(client.predict("cat.jpg"), layercache.Prediction)
    assert_type(client.submit(b"..."), Future[layercache.Prediction])
    assert_type(iter(client.predictions()), Iterator[layercache.Prediction])
    assert_type(next(client.dead_letters()), layercache.DeadLetter)
    client.publish(17)  # type: ignore[arg-type]


async def asynchronous_clients_have_types(client: layercache.AsyncClient) -> None:
    """Likewise."""
    assert_type(await client.predict("cat.jpg"), layercache.Prediction)
    assert_type(aiter(client.predictions()), AsyncIterator[layercache.Prediction])
    async for letter in client.dead_letters():
        assert_type(letter, layercache.DeadLetter)


def test_what_has_types_is_what_is_exported() -> None:
    assert asyncio.iscoroutinefunction(layercache.AsyncClient.predict)
    assert layercache.Settings is Settings
