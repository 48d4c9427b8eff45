"""The paper's heads: what they learn, and that the engine answers what the sweep was computed from."""

from math import inf

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.paper.data import Task
from benchmarks.paper.method import DenseHead, Recipe, flatten, learn, observe, train
from layercache.early_exit.cutting import cuts
from layercache.early_exit.model.fingerprint import fingerprint
from layercache.early_exit.model.loading import Classifier
from layercache.early_exit.model.preprocessing import Preprocessing
from layercache.early_exit.policy import cascade

PREPROCESSING = Preprocessing((8, 8), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
RECIPES = (Recipe("0", pool=2, hidden=16, learning_rate=0.05), Recipe("2", hidden=16, learning_rate=0.05))


def small_task(frames: int = 400) -> Task:
    """A small network whose answer is the quadrant of a frame that is brightest."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 100, (frames, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 4, (frames,), generator=generator)
    for frame, label in zip(pixels, labels.tolist(), strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        frame[:, row : row + 4, column : column + 4] += 120
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.AvgPool2d(4), nn.Flatten(),
        nn.Linear(32, 4),
    )  # fmt: skip
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(60):
        loss = nn.functional.cross_entropy(module(PREPROCESSING.normalise(pixels)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    module.eval().requires_grad_(False)
    classes = ("a", "b", "c", "d")
    identity = fingerprint(module, PREPROCESSING)
    classifier = Classifier(module, PREPROCESSING, classes, "small", identity, torch.device("cpu"), torch.float32)
    return Task("quadrants", "small", cuts.trace(classifier), pixels, labels.numpy())


@pytest.fixture(scope="module")
def task() -> Task:
    return small_task()


def test_the_halves_share_no_frame_and_a_seed_says_which_they_are(task: Task) -> None:
    learning, evaluation = task.learning(1), task.evaluation(1)
    assert sorted([*learning, *evaluation]) == list(range(400))
    assert not np.array_equal(np.sort(learning), np.sort(task.learning(2)))


def test_one_pass_sees_what_the_model_sees_at_the_layers(task: Task) -> None:
    observed = observe(task, RECIPES)
    inputs = PREPROCESSING.normalise(task.frames)
    module = task.traced.classifier.module
    assert isinstance(module, nn.Sequential)
    first: Tensor = module[0](inputs)
    torch.testing.assert_close(observed.features[0], flatten(first, 2).half())
    torch.testing.assert_close(observed.logits, module(inputs))


def test_heads_learn_from_the_full_models_answers_without_labels(task: Task) -> None:
    unlabelled = Task(task.name, task.backbone, task.traced, task.frames, np.full(400, -1))
    outcome = learn(unlabelled, 1, observe(task, RECIPES), RECIPES, report=lambda _: None)
    full = observe(task, RECIPES).logits[task.evaluation(1)].argmax(1).numpy()
    assert np.mean(outcome.labels[:, 1] == full) > 0.95


def test_the_engine_answers_what_the_sweep_says(task: Task) -> None:
    observed = observe(task, RECIPES)
    outcome = learn(task, 1, observed, RECIPES, report=lambda _: None)
    rows = task.evaluation(1)
    middle = float(np.median(outcome.scores[:, 0]))
    for thresholds in ((middle, middle), (inf, middle)):
        answers = outcome.engine(thresholds).run(task.frames[rows], np.zeros(len(rows), np.bool_))
        exits = cascade(outcome.scores, np.array(thresholds, np.float32))
        expected = np.where(exits >= 0, outcome.labels[np.arange(len(rows)), exits], observed.logits[rows].argmax(1))
        assert 0.2 < np.mean(exits >= 0) < 1
        assert np.mean(answers.labels == expected) > 0.99  # scores were computed on features rounded to float16


def test_settings_go_from_safest_to_boldest_with_one_threshold_for_all(task: Task) -> None:
    outcome = learn(task, 1, observe(task, RECIPES), RECIPES, report=lambda _: None)
    levels = [setting[0] for setting in outcome.settings]
    assert levels == sorted(levels, reverse=True)
    assert all(len(set(setting)) == 1 for setting in outcome.settings)


def test_standardising_the_inputs_is_gone_once_a_head_is_taught() -> None:
    generator = torch.Generator().manual_seed(0)
    features = (5 + 3 * torch.rand(200, 2 * 4 * 4, generator=generator)).half()
    logits = 4 * torch.nn.functional.one_hot((features[:, 0] > features[:, 1]).long(), 2).float()
    torch.manual_seed(0)
    recipe = Recipe("cut", hidden=16, learning_rate=0.1, epochs=20)
    head = DenseHead((2, 4, 4), recipe, 2)
    kept = train(head, recipe, 2, features, logits, seed=0)
    held = logits[:20].log_softmax(1)
    with torch.no_grad():
        answers = head.classify(features[:20].float()).log_softmax(1)
    found = nn.functional.kl_div(answers, held, reduction="batchmean", log_target=True)
    assert float(found) == pytest.approx(kept, rel=1e-2)
