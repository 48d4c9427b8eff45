"""Head candidates: what is tried at a cut, and how each learns."""

import pytest
import torch
from torch import nn

from layercache.cache_training.learning import proposals
from layercache.cache_training.learning.candidates import Candidate, Costs
from layercache.cache_training.learning.learner import Learner, Teacher
from layercache.cache_training.learning.proposals import head_flops, propose_heads
from layercache.cache_training.learning.views import make_views
from layercache.early_exit.cutting import cuts
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.heads.families import SkimHead
from layercache.early_exit.heads.skims import skim_path
from layercache.schemas.manifest import HeadSpec
from tests.cache_training.builders import buffer_of
from tests.early_exit.models import classifier


class Block(nn.Module):
    """A residual block that keeps its value's shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.relu(x + self.norm(self.conv(x)))
        return y


def small_resnet() -> nn.Module:
    torch.manual_seed(3)
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1), *(Block(8) for _ in range(4))]
    layers += [nn.Conv2d(8, 16, 3, stride=2, padding=1), *(Block(16) for _ in range(4))]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    for _ in range(50):  # norms that have seen frames, as a pretrained model's have
        network(torch.rand(64, 3, 16, 16) * 4 - 2)
    return network


@pytest.fixture(scope="module")
def traced() -> TracedModel:
    torch.set_num_threads(1)
    return cuts.trace(classifier(small_resnet(), (16, 16)))


def skim(traced: TracedModel, cut: str = "2", horizon: int | None = None) -> Candidate:
    spec = HeadSpec(
        family="skim", features=traced.cut(cut).shape, classes=5, path=skim_path(traced, cut, keep=1), stride=2
    )
    return Candidate(f"{cut}/skim", cut, spec, Costs(0, 0), seed=0, traced=traced, horizon=horizon)


def test_a_cut_is_offered_a_pooled_head_and_a_skim_within_its_share(traced: TracedModel) -> None:
    cut = traced.cut("2")
    heads = {spec.family: spec for spec in propose_heads(cut, traced)}
    assert set(heads) == {"pooled", "skim"}
    assert head_flops(heads["skim"], traced) <= 0.12 * traced.flops
    assert head_flops(heads["pooled"], traced) < head_flops(heads["skim"], traced)


def test_a_skim_of_too_many_weights_is_not_offered(traced: TracedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "_SKIM_WEIGHTS", 100)
    assert "skim" not in {spec.family for spec in propose_heads(traced.cut("2"), traced)}


def test_a_value_without_a_map_has_no_skim_of_less_resolution(traced: TracedModel) -> None:
    heads = propose_heads(traced.cuts[-1], traced)
    assert all(spec.stride == 1 for spec in heads if spec.family == "skim")


def learning(traced: TracedModel, candidate: Candidate, steps: int) -> tuple[float, float]:
    """Distances of the skim's values from the model's, before and after ``steps``."""
    names = [cut.name for cut in traced.cuts if cut.name in {"2", *(cut for cut, _ in candidate.hints)}]
    teacher = Teacher(traced, names)
    frames = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    maps, logits = teacher.answer(frames)
    hints = [
        nn.functional.adaptive_avg_pool2d(maps[cut], shape[1:]) if len(shape) == 3 else maps[cut]
        for cut, shape in candidate.hints
    ]

    def distance() -> float:
        assert isinstance(candidate.average, SkimHead)
        with torch.no_grad():
            inside = candidate.average.values(maps["2"])[:-1]
        return sum(float((value - hint).square().mean()) for value, hint in zip(inside, hints, strict=True))

    before = distance()
    for _ in range(steps):
        candidate.step(maps["2"].clone(), logits.clone(), [hint.clone() for hint in hints])
    return before, distance()


def test_a_skim_learns_to_have_what_the_model_has_inside(traced: TracedModel) -> None:
    before, after = learning(traced, skim(traced), 200)
    assert after < 0.5 * before


def test_hints_are_asked_for_where_the_skims_next_piece_starts(traced: TracedModel) -> None:
    candidate = skim(traced)
    assert [cut for cut, _ in candidate.hints] == [start for start, _ in candidate.spec.path[1:]]
    assert all(len(shape) in (1, 3) for _, shape in candidate.hints)


def test_a_known_end_brings_the_learning_rate_to_nothing(traced: TracedModel) -> None:
    candidate = skim(traced, horizon=40)
    learning(traced, candidate, 40)
    assert candidate.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    unknown = skim(traced)
    learning(traced, unknown, 40)
    assert unknown.optimizer.param_groups[0]["lr"] > 1e-3


def test_measuring_changes_no_weights(traced: TracedModel) -> None:
    candidate = skim(traced)
    before = {name: value.clone() for name, value in candidate.head.state_dict().items()}
    candidate.measure(traced.flops, 1.0)
    assert candidate.costs.flops == pytest.approx(head_flops(candidate.spec, traced) / traced.flops)
    assert candidate.costs.time > 0
    assert all(value.equal(before[name]) for name, value in candidate.head.state_dict().items())


def test_a_restored_skim_answers_as_before(traced: TracedModel) -> None:
    first, second = skim(traced), skim(traced)
    learning(traced, first, 10)
    second.restore(first.state())
    x = torch.randn(4, *first.spec.features)
    assert second.logits(x).equal(first.logits(x))
    assert second.steps == 10


def test_a_learner_teaches_heads_with_hints_from_one_pass(traced: TracedModel) -> None:
    heads = {"2": [skim(traced).spec], "6": propose_heads(traced.cut("6"), traced)}
    learner = Learner(traced, ["2", "6"], ring_mb=20, seed=0, heads=heads, horizon=20)
    inputs = torch.randint(0, 256, (50, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    logits = Teacher(traced, ["2"]).answer(inputs)[1]
    audits, none = buffer_of(inputs, logits), buffer_of(inputs[:0], logits[:0])
    assert all(learner.learn(audits, none) for _ in range(20))
    assert {candidate.steps for candidate in learner.candidates} == {20}
    assert set(learner.route.reach) == {"2", "6"}
    assert learner.route.reach["2"].flops == traced.cut("2").flops_share
    assert learner.views_made == 64 * -(-20 * 128 // (5 * 64))


@pytest.mark.parametrize(("one_counts", "others"), [(False, 4), (True, 1)])
def test_of_many_skims_the_best_learns_always_and_the_others_in_turn(
    traced: TracedModel, one_counts: bool, others: int
) -> None:
    heads = {cut: [skim(traced, cut).spec] for cut in ("1", "2", "3")}
    learner = Learner(traced, ["1", "2", "3"], ring_mb=20, seed=0, heads=heads)
    inputs = torch.randint(0, 256, (50, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    logits = Teacher(traced, ["2"]).answer(inputs)[1]
    audits, none = buffer_of(inputs, logits), buffer_of(inputs[:0], logits[:0])
    learner.prioritise({"1/skim": 0.1, "2/skim": 0.3, "3/skim": 0.2}, one_counts)
    for _ in range(8):
        learner.learn(audits, none)
    assert {one.name: one.steps for one in learner.candidates} == {"1/skim": others, "2/skim": 8, "3/skim": others}


def test_views_are_pictures_of_the_same_kind_and_the_seed_decides(traced: TracedModel) -> None:
    frames = torch.randint(0, 256, (400, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    first, second = (make_views(frames, torch.Generator().manual_seed(seed)) for seed in (5, 5))
    assert first.equal(second)
    assert (first.dtype, first.shape) == (frames.dtype, frames.shape)
    unchanged = float((first == frames).flatten(1).all(1).float().mean())
    assert 0.07 < unchanged < 0.2  # a quarter are not changed, half of those are mixed with another
    assert make_views(frames[:1, :1], torch.Generator().manual_seed(0)).shape == (1, 1, 16, 16)
