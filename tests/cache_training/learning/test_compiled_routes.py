"""What the trainer expects of a compiled path with heads, before it is made."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from layercache.cache_training.learning.candidates import Candidate, Costs
from layercache.cache_training.learning.compiled_exits import TIMED_BATCHES, CompiledExit
from layercache.cache_training.learning.compiled_routes import CompiledRoutes
from layercache.cache_training.learning.routes import Route
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.schemas.manifest import HeadSpec

SPEC = HeadSpec(family="pooled", features=(4,), classes=3)
#: The plain model takes 10 ms a frame, 2 of them to its cut; a head there 1 ms, and the whole in int8 2.5 ms.
PLAIN = {"to first": dict.fromkeys(TIMED_BATCHES, 2.0), "to the end": dict.fromkeys(TIMED_BATCHES, 8.0)}
HEAD = {"head first/pooled": dict.fromkeys(TIMED_BATCHES, 1.0)}


def per_frame(times: dict[str, dict[int, float]]) -> dict[str, dict[int, float]]:
    return {piece: {n: n * ms for n, ms in by_batch.items()} for piece, by_batch in times.items()}


@pytest.fixture
def routes(model: TracedModel) -> CompiledRoutes:
    made = CompiledRoutes(model, ["int8"], per_frame(PLAIN), per_frame(HEAD))
    end: Any = SimpleNamespace(
        precision="int8",
        piece_ms=[{n: 2.5 * n for n in TIMED_BATCHES}],
        plain_ms={n: 10.0 * n for n in TIMED_BATCHES},
        route=Route({"int8": Costs(1.0, 0.25)}, nowhere=Costs(2.0, 1.25)),
        times=SimpleNamespace(judge_by=lambda batch: None),
    )
    made.ends.append(end)
    return made


@pytest.mark.parametrize("batch", [8, 32])
def test_heads_and_pieces_gain_what_the_model_gains_and_a_cut_costs_a_little(
    routes: CompiledRoutes, batch: int
) -> None:
    routes.judge_by(batch)
    imagined = routes.imagined(Route({"first": Costs(0.3, 0.2)}))
    head = Candidate("first/pooled", "first", SPEC, Costs(0.02, 0.1), seed=0)
    end = CompiledExit("int8", "int8", None, Costs(0.0, 0.0))
    assert list(imagined.reach) == ["first", "int8"]
    # To the cut 0.5 ms, the head 0.25 and being cut 0.15; from there to the end 2 ms, and the model itself 10.
    at_head, at_end, nowhere = np.eye(3)
    assert imagined.time([head, end], at_head) == pytest.approx(0.09)
    assert imagined.time([head, end], at_end) == pytest.approx(0.29)
    assert imagined.time([head, end], nowhere) == pytest.approx(1.29)
    assert imagined.time([end], np.array([1.0, 0.0])) == pytest.approx(0.25)
    assert imagined.path is None


def test_it_is_imagined_once_and_anew_for_batches_of_another_size(routes: CompiledRoutes) -> None:
    plain = Route({"first": Costs(0.3, 0.2)})
    first = routes.imagined(plain)
    assert routes.imagined(plain) is first
    routes.judge_by(32)
    assert routes.imagined(plain) is first, "they had so many"
    routes.judge_by(16)
    assert routes.imagined(plain) is not first
