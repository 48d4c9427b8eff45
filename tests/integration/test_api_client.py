"""Python's clients and a real worker: what is asked comes back, from its answer or its dead letter."""

import asyncio
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from layercache.api.async_client import AsyncClient
from layercache.api.client import Client
from layercache.api.following import DeadLetterError
from layercache.schemas.settings import Settings
from testbed.worker_process import running_worker
from tests.support.pictures import coloured, encode
from tests.support.tiny_model import CLASSES

pytestmark = pytest.mark.one_broker


def test_both_clients_ask_a_worker(worker_settings: Settings, tmp_path: Path) -> None:
    settings = worker_settings
    with running_worker(settings, tmp_path) as worker:
        worker.wait_for("working on")
        with Client(settings) as client, client.predictions() as everybodys:
            image = PIL.Image.fromarray(coloured("green", 30, 40))
            (tmp_path / "blue.webp").write_bytes(encode(coloured("blue"), "WEBP"))
            assert client.predict(coloured("red"), key="camera-1", timeout=60).class_name == "red"
            assert client.predict(image, id="an image").id == "an image"
            assert client.predict(tmp_path / "blue.webp").class_name == "blue"
            with pytest.raises(DeadLetterError, match="frame bad is a dead letter: corrupt: image/png that does not"):
                client.predict(encode(coloured("red"), "PNG")[:-30], id="bad")
            futures = [client.submit(coloured(CLASSES[n % 3], noise=n), id=f"{n}") for n in range(60)]
            answers = [future.result(60) for future in futures]
            assert [answer.class_name for answer in answers] == [CLASSES[n % 3] for n in range(60)]
            seen = {next(everybodys).id for _ in range(63)}
            assert seen >= {str(n) for n in range(60)} | {"an image"}
            with client.dead_letters(from_beginning=True) as letters:
                assert next(letters).id == "bad"
        asyncio.run(asyncio.wait_for(asked_by_a_loop(settings), 120))


async def asked_by_a_loop(settings: Settings) -> None:
    async with AsyncClient(settings) as client, client.predictions() as predictions:
        found = await asyncio.gather(
            *(client.predict(coloured(CLASSES[n % 3], noise=n), id=f"again-{n}", timeout=60) for n in range(60))
        )
        assert [one.class_name for one in found] == [CLASSES[n % 3] for n in range(60)]
        assert {(await anext(predictions)).id for _ in range(60)} == {f"again-{n}" for n in range(60)}
        with pytest.raises(DeadLetterError, match="too-many-pixels"):
            await client.predict(PIL.Image.fromarray(np.zeros((400, 400), np.uint8)))
