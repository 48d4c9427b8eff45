"""Who runs in the pipeline benchmark: Layercache, the others and a bare loop; how each starts, what it promises."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from benchmarks.pipeline.peers.job import NOTHING, Config
from layercache.demo.settings import toml
from layercache.schemas.settings import Topics

ROOT = Path(__file__).parents[2]
#: One process each, with as many threads for decoding; torch gets one thread everywhere.
DECODE_THREADS = 2
BATCH, MAX_WAIT_MS, COMMIT_INTERVAL_MS = 32, 20.0, 200.0

Guarantee = Literal["exactly once", "at least once"]
EXACTLY_ONCE: Guarantee = "exactly once"
AT_LEAST_ONCE: Guarantee = "at least once"
Exits = Literal["closed", "open"]
ONE_BY_ONE = "per frame"
BATCHED = f"batches of {BATCH}"


@dataclass(frozen=True)
class Place:
    """Where a system works: the broker, its topics and group, a folder of its own, and the folder of learnt heads."""

    servers: str
    topics: Topics
    group: str
    folder: Path
    heads: Path


@dataclass(frozen=True)
class System:
    """One contestant. ``expected_per_s`` by frame size says how many frames to give it: a few seconds' work."""

    name: str
    delivery: Guarantee
    batch: str
    expected_per_s: Mapping[int, float]

    @property
    def key(self) -> str:
        """Its name in tables of runs."""
        return f"{self.name} | {self.delivery} | {self.batch}"

    def command(self, model: str, place: Place) -> list[str]:
        """What runs it on ``model``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Peer(System):
    """Another stream processor, in the peers' environment; or the bare loop, in ours."""

    module: str
    python: str

    def command(self, model: str, place: Place) -> list[str]:
        config = Config(
            servers=place.servers, frames=place.topics.frames, predictions=place.topics.predictions, group=place.group,
            model=model, batched=self.batch != ONE_BY_ONE, exactly_once=self.delivery == EXACTLY_ONCE, batch=BATCH,
            max_wait_ms=MAX_WAIT_MS, commit_interval_ms=COMMIT_INTERVAL_MS, decode_threads=DECODE_THREADS,
            state_dir=str(place.folder / "state"),
        )  # fmt: skip
        return [self.python, "-m", f"benchmarks.pipeline.peers.{self.module}", json.dumps(asdict(config))]


@dataclass(frozen=True)
class Ours(System):
    """`layercache worker`; with the model that does nothing, its loop with an engine that does nothing."""

    exits: Exits

    def command(self, model: str, place: Place) -> list[str]:
        file = place.folder / "layercache.toml"
        file.write_text(toml(self._settings(model, place)))
        if model == NOTHING:
            return [sys.executable, "-m", "benchmarks.pipeline.plumbing", str(file)]
        return [sys.executable, "-m", "layercache", "worker", "--config", str(file)]

    def _settings(self, model: str, place: Place) -> dict[str, dict[str, object]]:
        heads = place.heads if self.exits == "open" else place.folder / "heads"
        worker: dict[str, object] = {
            "group_id": place.group,
            "delivery": self.delivery.replace(" ", "_"),
            "max_wait_ms": MAX_WAIT_MS,
            "commit_interval_ms": COMMIT_INTERVAL_MS,
            "decode_threads": DECODE_THREADS,
        }
        chosen: dict[str, dict[str, object]] = {
            "kafka": {"bootstrap_servers": place.servers},
            "topics": place.topics.model_dump(exclude_unset=True),
            "store": {"url": f"file://{heads.resolve()}"},
            "worker": worker,
        }
        if model == NOTHING:
            from benchmarks.plumbing import MAX_BATCH

            worker |= {"max_batch": MAX_BATCH, "top_k": 1}
        else:
            worker |= {"max_batch": BATCH, "torch_threads": 1}
            chosen["model"] = {"spec": model}
        return chosen


def environment() -> dict[str, str]:
    """A system's: no settings of ours from outside, one thread of torch, and the repository on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("LAYERCACHE_")}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def with_model(peers_python: str) -> list[System]:
    """The systems that run a real model, on frames of a few hundred bytes."""

    def peer(name: str, module: str, delivery: Guarantee, batch: str, per_s: float) -> Peer:
        return Peer(name, delivery, batch, {0: per_s}, module, peers_python)

    return [
        *(
            Ours(f"Layercache, exits {exits}", delivery, BATCHED, {0: per_s}, exits)
            for exits, per_s in _OURS.items()
            for delivery in (EXACTLY_ONCE, AT_LEAST_ONCE)
        ),
        peer("Quix Streams", "quix_app", EXACTLY_ONCE, ONE_BY_ONE, 400),
        peer("Quix Streams", "quix_app", AT_LEAST_ONCE, ONE_BY_ONE, 400),
        peer("Quix Streams", "quix_app", EXACTLY_ONCE, BATCHED, 700),
        peer("Quix Streams", "quix_app", AT_LEAST_ONCE, BATCHED, 700),
        peer("bytewax", "bytewax_app", AT_LEAST_ONCE, ONE_BY_ONE, 400),
        peer("bytewax", "bytewax_app", AT_LEAST_ONCE, BATCHED, 700),
        peer("Faust", "faust_app", AT_LEAST_ONCE, ONE_BY_ONE, 400),
        peer("Faust", "faust_app", AT_LEAST_ONCE, BATCHED, 700),
    ]


_OURS: dict[Exits, float] = {"closed": 700, "open": 1_400}


def with_nothing(peers_python: str) -> list[System]:
    """The systems whose model does nothing; a batch only matters to those that take one."""

    def peer(name: str, module: str, delivery: Guarantee, batch: str, small: float, large: float) -> Peer:
        python = sys.executable if module == "loop_app" else peers_python
        return Peer(name, delivery, batch, {3_000: small, 100_000: large}, module, python)

    ours = {3_000: 150_000.0, 100_000: 8_000.0}
    return [
        peer("bare confluent-kafka loop", "loop_app", EXACTLY_ONCE, "what there is", 200_000, 8_000),
        Ours("Layercache", EXACTLY_ONCE, "what there is", ours, "closed"),
        Ours("Layercache", AT_LEAST_ONCE, "what there is", ours, "closed"),
        peer("Quix Streams", "quix_app", EXACTLY_ONCE, ONE_BY_ONE, 50_000, 5_000),
        peer("Quix Streams", "quix_app", AT_LEAST_ONCE, ONE_BY_ONE, 50_000, 5_000),
        peer("bytewax", "bytewax_app", AT_LEAST_ONCE, ONE_BY_ONE, 25_000, 4_000),
        peer("bytewax", "bytewax_app", AT_LEAST_ONCE, BATCHED, 25_000, 4_000),
        peer("Faust", "faust_app", AT_LEAST_ONCE, ONE_BY_ONE, 3_000, 1_500),
        peer("Faust", "faust_app", AT_LEAST_ONCE, BATCHED, 3_000, 1_500),
    ]
