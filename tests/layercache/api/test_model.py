"""The model with exits in one's own loop: what a worker does, without Kafka."""

import threading
from pathlib import Path

import msgspec
import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

from layercache.api.model import EarlyExitModel
from layercache.api.pictures import Picture
from layercache.early_exit.model.loading import ModelError
from layercache.early_exit.model.preprocessing import Preprocessing
from layercache.early_exit.policy import draw_audits
from layercache.early_exit.store.head_store import HeadStore, StoreError
from layercache.schemas.settings import Model, Promise, Settings, Store, Worker
from layercache.stream.frames.decoding import DecodeError
from testbed.waiting import wait_until
from tests.stream import builders
from tests.support.manifests import certified
from tests.support.pictures import COLOURS, coloured, encode
from tests.support.tiny_model import TinyModel

TINY = Preprocessing(size=(16, 16), mean=(0.0,) * 3, std=(1.0,) * 3)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/heads"


def made(tiny: TinyModel, url: str | None = None, **options: object) -> EarlyExitModel:
    """Of the tiny model; heads are looked for when asked alone."""
    settings = tiny.settings
    return EarlyExitModel(
        EarlyExitModel.from_spec(settings.spec, settings.weights, runtime=settings.runtime).classifier,
        store=url,
        **({"refresh_s": None} | options),  # type: ignore[arg-type]
    )


def published(model: EarlyExitModel, version: str = "v1", **heads: object) -> HeadStore:
    """A version of heads that let every frame go as ``label``, in the model's own store."""
    assert model.store is not None
    manifest, tensors = builders.heads(model.traced, version, **heads)  # type: ignore[arg-type]
    certificate = certified(model.promise.max_disagreement)
    model.store.publish(msgspec.structs.replace(manifest, certificate=certificate), tensors)
    return model.store


def colours(count: int) -> Tensor:
    """uint8 ``[count, 3, 16, 16]``, in turn red, green and blue."""
    return torch.stack([builders.picture(tuple(COLOURS)[n % 3], n) for n in range(count)])


def test_without_a_store_it_answers_what_the_module_answers(tiny_model: TinyModel) -> None:
    model = made(tiny_model)
    answers = model(colours(6))
    assert answers.class_names == ("red", "green", "blue") * 2
    assert set(answers.exits) == {"full"}
    assert answers.audited.all()
    assert answers.heads_version is None
    assert not model.exits
    logits = model.classifier.module(model.classifier.preprocessing.normalise(colours(6)))
    assert np.allclose(answers.probabilities, logits.softmax(1).numpy(), atol=1e-6)
    assert [answer.confidence for answer in answers] == answers.probabilities.max(1).tolist()


def test_any_module_will_do_and_is_left_as_it_was(url: str) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 4))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    model = EarlyExitModel(module, TINY, ["a", "b", "c", "d"], name="mine", store=url, refresh_s=None, runtime="torch")
    model(colours(3))
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert model.store is not None
    assert model.store.url.endswith(f"heads/mine-{model.classifier.fingerprint[:12]}")


def test_answers_carry_lessons_where_the_compiled_model_gave_them(tiny_model: TinyModel, url: str) -> None:
    model = made(tiny_model, url, stream="lessons")
    published(model, audit_rate=0.2)
    assert model.refresh()
    model._heads.serving.engine.end = 0  # as if its one exit were the model itself, compiled
    blue = torch.stack([builders.picture("blue", n) for n in range(332)])  # as the exit says, so that it stays open
    assert not model(blue[:32]).take_records(), "no trainer has asked for any"
    model.keep_records()
    answers = model(blue[32:])
    records = answers.take_records()
    lessons = [offset - 32 for one in records if one.of_lessons for offset in one.offset.tolist()]
    assert 5 < len(lessons) < 60
    assert {answers.exits[row] for row in lessons} == {model.exits[0]}
    assert sum(len(one) for one in records if not one.of_lessons) == answers.audited.sum()


def test_a_module_and_the_command_lines_model_of_the_same_weights_share_their_heads(tiny_model: TinyModel) -> None:
    loaded = made(tiny_model)
    again = EarlyExitModel(loaded.classifier.module, loaded.classifier.preprocessing, loaded.classes, runtime="torch")
    assert again.classifier.fingerprint == loaded.classifier.fingerprint


def test_a_module_that_fits_neither_pictures_nor_classes_is_refused() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
    with pytest.raises(ModelError, match="mine gives 4 logits but 2 class names are known"):
        EarlyExitModel(module, TINY, ["a", "b"], name="mine")
    with pytest.raises(ModelError, match=r"mine fails on a batch of shape \(2, 3, 8, 8\)"):
        EarlyExitModel(module, Preprocessing(size=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3), name="mine")
    with pytest.raises(ValueError, match="a module needs its preprocessing"):
        EarlyExitModel(module)


def test_all_kinds_of_pictures_are_answered_alike(tiny_model: TinyModel, tmp_path: Path) -> None:
    model, pixels = made(tiny_model), coloured("green", 16, 16)
    (tmp_path / "green.png").write_bytes(encode(pixels, "PNG"))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    one_by_one: list[Picture] = [
        encode(pixels, "PNG"), tmp_path / "green.png", str(tmp_path / "green.png"), PIL.Image.fromarray(pixels),
        pixels, tensor, encode(pixels, "NPY"), tensor[None], pixels[None],
    ]  # fmt: skip
    found = [model(picture).probabilities for picture in one_by_one]
    assert all(len(probabilities) == 1 and np.array_equal(probabilities, found[0]) for probabilities in found)
    assert model(PIL.Image.fromarray(coloured("blue", 40, 30)))[0].class_name == "blue"
    assert len(model([pixels, PIL.Image.fromarray(pixels), tensor])) == 3


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (b"hello", "none of image/jpeg"),
        (encode(coloured("red"), "PNG")[:-9], "image/png that does not decode"),
        (np.zeros((4, 4)), "must be uint8 of H x W or H x W x 3 to be a picture, not float64 of 4 x 4"),
        (np.zeros((4, 4, 5), np.uint8), "not uint8 of 4 x 4 x 5"),
        (torch.zeros(3, 16, 16), "a picture must be uint8"),
        ([], "there are no pictures to answer"),
        ([17], "a picture is bytes, a path, a PIL image"),
    ],
)
def test_what_is_no_picture_is_refused(tiny_model: TinyModel, picture: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made(tiny_model)(picture)  # type: ignore[arg-type]


def test_a_damaged_picture_says_so_as_a_worker_would(tiny_model: TinyModel) -> None:
    with pytest.raises(DecodeError) as caught:
        made(tiny_model)([coloured("red"), b""])
    assert caught.value.reason == "empty"


def test_frames_leave_at_the_exits_of_the_store_and_flops_are_saved(tiny_model: TinyModel, url: str) -> None:
    model = made(tiny_model, url)
    published(model, audit_rate=0.0)
    assert model.heads_version is None  # not asked yet
    assert model.refresh()
    cut = model.traced.proposed[0].name
    assert model.exits == (cut,)
    answers = model(colours(10))
    assert (set(answers.exits), set(answers.class_names), answers.heads_version) == ({cut}, {"blue"}, "v1")
    found = model.statistics()
    assert (found.frames, found.audits) == (10, 0)
    assert dict(found.exits) == {cut: 10}
    assert (found.flops_share, found.time_share) == pytest.approx((0.3, 0.2))


def test_new_heads_come_in_the_background(tiny_model: TinyModel, url: str) -> None:
    with made(tiny_model, url, refresh_s=0.02) as model:
        published(model)
        wait_until(lambda: model.heads_version == "v1", "version v1 in force", 20)


def test_heads_of_another_model_are_never_used(tiny_model: TinyModel, url: str, tmp_path: Path) -> None:
    from tests.support import tiny_model as tiny

    model, other = made(tiny_model, url), made(tiny.write(tmp_path / "other", seed=7))
    assert model.store is not None
    model.store.publish(*builders.heads(other.traced))
    assert model.refresh()
    assert (model.heads_version, set(model(colours(3)).exits)) == (None, {"full"})


def test_a_store_that_is_away_leaves_what_is_served(
    tiny_model: TinyModel, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(tiny_model, url)
    store = published(model)
    assert model.refresh()

    def away() -> None:
        raise StoreError("no route to host")

    monkeypatch.setattr(store, "live", away)
    assert not model.refresh()
    assert model.heads_version == "v1"


def test_audits_are_drawn_by_position_and_answered_by_the_model(tiny_model: TinyModel, url: str) -> None:
    always = Promise(max_disagreement=0.9)
    model = made(tiny_model, url, stream="mine", first_position=500, max_batch=8, promise=always)
    published(model, audit_rate=0.3)
    model.refresh()
    answers = [*model(colours(100)), *model(colours(100))]
    expected = draw_audits("mine", np.zeros(200, np.int32), np.arange(500, 700), 0.3)
    assert [answer.audited for answer in answers] == expected.tolist()
    truth = ["red", "green", "blue"]
    for number, answer in enumerate(answers):
        assert answer.class_name == (truth[number % 100 % 3] if answer.audited else "blue")
        assert (answer.exit == "full") == answer.audited
    assert model.statistics().audits == expected.sum()


def test_each_model_draws_audits_of_its_own(tiny_model: TinyModel) -> None:
    assert made(tiny_model).stream != made(tiny_model).stream


def test_exits_that_left_their_budget_close_by_themselves(tiny_model: TinyModel, url: str) -> None:
    model = made(tiny_model, url, promise=Promise(max_disagreement=0.05))
    published(model, label="blue", audit_rate=0.5)
    model.refresh()
    assert not model.closed
    rounds = 0
    while not model.closed:  # two of three audits disagree
        model(colours(30))
        rounds += 1
        assert rounds < 10
    assert model.exits == ()
    assert set(model(colours(30)).exits) == {"full"}
    assert model.statistics().disagreements > 10


def test_near_copies_of_one_camera_count_once(tiny_model: TinyModel, url: str) -> None:
    model = made(tiny_model, url, promise=Promise(max_disagreement=0.05), clock=lambda: 1000.0)
    published(model, label="blue", audit_rate=0.5)
    model.refresh()
    for _ in range(10):
        model(colours(30), key="camera-1")
    assert not model.closed
    model(colours(60), taken=[1000.0 + 60 * n for n in range(60)], key=["camera-1"] * 60)  # one a minute
    assert model.closed


def test_keys_and_times_must_be_one_for_all_or_one_each(tiny_model: TinyModel) -> None:
    model = made(tiny_model)
    with pytest.raises(ValueError, match="there are 2 keys for 3 pictures"):
        model(colours(3), key=["a", "b"])
    with pytest.raises(ValueError, match="there are 1 times for 3 pictures"):
        model(colours(3), taken=[1.0])


def test_shadow_mode_serves_no_exit(tiny_model: TinyModel, url: str) -> None:
    model = made(tiny_model, url, mode="shadow")
    published(model, audit_rate=0.0)
    model.refresh()
    answers = model(colours(6))
    assert (set(answers.exits), answers.class_names[:3]) == ({"full"}, ("red", "green", "blue"))


def test_threads_take_turns_and_no_position_is_used_twice(tiny_model: TinyModel, url: str) -> None:
    model = made(tiny_model, url, stream="threads")
    model.keep_records()
    positions: list[int] = []

    def call() -> None:
        for _ in range(20):
            for record in model(colours(3)).take_records():
                positions.extend(record.offset.tolist())

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(positions) == list(range(240))


def test_it_is_made_of_the_settings_that_workers_have(tiny_model: TinyModel, url: str) -> None:
    settings = Settings(
        model=Model(**tiny_model.settings.model_dump()), store=Store(url=url, poll_s=0.02), worker=Worker(mode="shadow")
    )
    with EarlyExitModel.from_settings(settings) as model:
        published(model)
        wait_until(lambda: model.heads_version == "v1", "version v1 in force", 20)
        assert set(model(colours(3)).exits) == {"full"}


def test_answers_hold_pictures_for_a_trainer_alone(tiny_model: TinyModel) -> None:
    model = made(tiny_model)
    assert model(colours(3)).take_records() == []
    model.keep_records()
    frames = colours(3)
    answers = model(frames)
    frames.zero_()  # a loop may use its buffer again
    (record,) = answers.take_records()
    assert np.array_equal(record.inputs, colours(3).numpy())
    assert answers.take_records() == []
