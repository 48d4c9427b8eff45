"""Python on the pages runs: a page's blocks one after another, as a reader would paste them.

Blocks that name ``localhost:9092`` meet a broker with the topics on it and a worker that answers. Prompts (``>>>``) are
for doctest, which runs the pages of ``docs/`` by itself.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from layercache.broker import SESSION_TIMEOUT_MS, EmbeddedBroker
from layercache.schemas.settings import Settings, load
from layercache.stream.kafka.topics import create
from testbed.worker_process import Picture, publish, running_worker
from tests.docs.pages import ROOT, Found, blocks, named, pages
from tests.support.pictures import coloured, encode

pytestmark = pytest.mark.slow

BROKER = "localhost:9092"
PAGES = [page for page in pages() if any(">>>" not in block.text for block in blocks(page, "python"))]


class Enough(BaseException):
    """Ends a block that would go on for ever; no ``except Exception`` of its own holds it up."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A broker as ``layercache broker`` starts it, with the default topics, and a worker with the demo's model."""
    folder = tmp_path_factory.mktemp("served")
    with EmbeddedBroker() as broker:
        overrides: dict[str, dict[str, Any]] = {
            "kafka": {
                "bootstrap_servers": broker.bootstrap_servers,
                "consumer_options": {"session.timeout.ms": SESSION_TIMEOUT_MS, "heartbeat.interval.ms": 500},
            },
            "model": {"spec": f"{ROOT}/examples/fashion_mnist.py:build"},
            "store": {"url": f"file://{folder}/heads"},
            "worker": {"torch_threads": 1, "max_batch": 4},
        }
        settings = load(overrides=overrides)
        create(settings)
        with running_worker(settings, folder) as worker:
            # A frame of its own: pages that only read find something to read.
            publish(settings, [Picture(encode(coloured("red"), "JPEG"), id="cat", key="camera-1")])
            worker.wait_for("on cpu")
            yield settings


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_pages_python_runs(
    page: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cat.jpg").write_bytes(encode(coloured("green"), "JPEG"))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    plain = [block for block in blocks(page, "python") if ">>>" not in block.text]
    servers = BROKER
    if any(BROKER in block.text for block in plain):
        servers = request.getfixturevalue("served").kafka.bootstrap_servers
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in plain:
        run(block, names, servers)


def run(block: Found, names: dict[str, Any], servers: str) -> list[str]:
    """Runs a block among ``names``; one that reads for ever ends once it has printed what it read first."""
    printed: list[str] = []
    endless = BROKER in block.text and re.search(r"^\s*(while True|(async )?for )", block.text, re.MULTILINE)

    def told(*values: object, **_: object) -> None:
        printed.append(" ".join(map(str, values)))
        if endless:
            raise Enough

    names["print"] = told
    try:
        exec(compile(_reaching(servers, block.text), block.where, "exec"), names)
    except Enough:
        assert "None" not in printed[0], f"{block.where} read a prediction without its parts: {printed[0]}"
    else:
        assert not endless, f"{block.where} ended without a word"
    return printed


def _reaching(servers: str, text: str) -> str:
    """The block, led to ``servers``, on which half a session time-out passes until a group has come together."""
    if '"group.id"' in text:
        text = text.replace(f'"{BROKER}"', f'"{BROKER}", "session.timeout.ms": {SESSION_TIMEOUT_MS}')
    return text.replace(BROKER, servers)


def test_there_are_blocks_with_and_without_a_broker() -> None:
    texts = [block.text for page in PAGES for block in blocks(page, "python") if ">>>" not in block.text]
    assert any(BROKER in text for text in texts)
    assert any(BROKER not in text for text in texts)


def test_pages_outside_docs_have_no_prompts() -> None:
    """Doctest is told to run ``docs/``; prompts elsewhere would be examples that nobody runs."""
    root = [page for page in pages() if not page.is_relative_to(ROOT / "docs")]
    assert [block.where for page in root for block in blocks(page, "python", "pycon") if ">>>" in block.text] == []
