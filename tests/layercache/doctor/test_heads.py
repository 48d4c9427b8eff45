"""What the doctor says of a model and of its heads."""

from pathlib import Path

import msgspec
import pytest

from layercache.doctor import heads, model
from layercache.doctor.checks import Finding
from layercache.early_exit.cutting import cuts
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.model import loading
from layercache.schemas.manifest import Manifest
from layercache.schemas.settings import Model, Promise, Settings, Store, Topics, Trainer
from tests.support.heads import publish_heads, store_of
from tests.support.manifests import certified
from tests.support.tiny_model import TinyModel, write

KEY = "k" * 40


@pytest.fixture
def settings(tiny_model: TinyModel, tmp_path: Path) -> Settings:
    return Settings(model=tiny_model.settings, store=Store(url=f"file://{tmp_path}/heads"))


@pytest.fixture
def traced(settings: Settings) -> TracedModel:
    return cuts.trace(loading.load(settings.model))


def looked(settings: Settings, traced: TracedModel) -> dict[str, Finding]:
    return {one.check: one for one in heads.check(settings, traced)}


def publish(settings: Settings, version: str = "20260101T000000-0001", budget: float | None = 0.01) -> Manifest:
    """A version with a certificate for ``budget``, its heads fit for the tiny model."""
    manifest = publish_heads(settings, "draft", "red")
    store = store_of(settings)
    _, tensors = store.load("draft")
    certificate = None if budget is None else certified(budget)
    return store.publish(msgspec.structs.replace(manifest, version=version, certificate=certificate), tensors)


def test_no_version_yet_is_how_it_begins(settings: Settings, traced: TracedModel) -> None:
    found = looked(settings, traced)["live version"]
    assert (found.state, found.fix) == ("ok", "")
    assert "every frame runs the full model until a trainer publishes one" in found.found


def test_another_models_heads_are_named(settings: Settings, traced: TracedModel, tmp_path: Path) -> None:
    publish(settings.model_copy(update={"model": write(tmp_path / "model", seed=1).settings}))
    found = looked(settings, traced)["live version"]
    assert found.state == "warning"
    assert "the same name, other weights" in found.found
    assert "--weights" in found.fix


def test_a_version_that_fits_and_is_certified_is_well(settings: Settings, traced: TracedModel) -> None:
    publish(settings)
    found = looked(settings, traced)
    assert {one.state for one in found.values()} == {"ok"}
    assert "exits at first; they fit this model" in found["live version"].found
    assert "certified for 1.00% at 95%, risk at most 0.80% (2 of 1,000 audits differ)" in found["certificate"].found


def test_a_certificate_for_less_than_is_promised_is_an_error(settings: Settings, traced: TracedModel) -> None:
    publish(settings, budget=0.05)
    found = looked(settings, traced)["certificate"]
    assert found.state == "error"
    assert "the settings promise 1.00% at 95%" in found.found
    promising_less = settings.model_copy(update={"promise": Promise(max_disagreement=0.05)})
    assert looked(promising_less, traced)["certificate"].state == "ok"


def test_exits_without_a_certificate_are_an_error(settings: Settings, traced: TracedModel) -> None:
    publish(settings, budget=None)
    assert looked(settings, traced)["certificate"].state == "error"


def test_what_an_operator_holds_is_told(settings: Settings, traced: TracedModel) -> None:
    publish(settings)
    store_of(settings).close("odd answers")
    found = looked(settings, traced)["operator"]
    assert (found.state, found.found) == ("warning", "every exit is kept closed (odd answers)")
    assert "layercache heads unpin" in found.fix


def test_heads_without_the_signature_that_the_settings_ask_for_are_an_error(
    settings: Settings, traced: TracedModel
) -> None:
    publish(settings)
    signed = settings.model_copy(update={"store": Store(url=settings.store.url, signing_key=KEY)})
    found = looked(signed, traced)
    assert found["signature"].state == "error"
    assert KEY not in str(found)


def test_damaged_heads_are_an_error(settings: Settings, traced: TracedModel, tmp_path: Path) -> None:
    publish(settings)
    (file,) = tmp_path.glob("heads/*/20260101T000000-0001/heads.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert looked(settings, traced)["read"].state == "error"


def test_heads_that_closed_by_an_alarm_are_told(settings: Settings, traced: TracedModel) -> None:
    manifest = publish(settings)
    closed = msgspec.structs.replace(
        manifest, version="20260101T000000-0002", reason="unsafe", exits=(), certificate=None
    )
    store_of(settings).publish(closed, {})
    assert looked(settings, traced)["live version"].state == "warning"


def checked(settings: Settings) -> dict[str, Finding]:
    return {one.check: one for one in model.check(settings, lambda traced: None)}


def test_a_model_is_loaded_cut_and_timed(settings: Settings) -> None:
    found = checked(settings)
    assert {one.state for one in found.values()} == {"ok"}
    assert found["load"].found == "tiny: 3 classes, frames of 3 × 16 × 16, on cpu"
    assert "ms a frame" in found["speed"].found
    assert "86 " not in found["trainer's memory"].found
    assert found["trainer's memory"].found.startswith("432 certification audits to begin with for 1.00% at 95%")


def test_a_model_that_does_not_load_is_an_error() -> None:
    found = checked(Settings(model=Model(spec="torchvision:resnet81")))
    assert (found["load"].state, list(found)) == ("error", ["load"])
    assert "did you mean" in found["load"].found


def test_frames_that_fit_no_record_and_windows_that_hold_too_few_are_errors(settings: Settings) -> None:
    small = settings.model_copy(
        update={
            "topics": Topics.model_construct(max_record_bytes=1_000),
            "trainer": Trainer(replay_mb=2, window_frames=400),
        }
    )
    found = checked(small)
    assert found["record size"].state == "error"
    assert found["trainer's memory"].fix == "set trainer.window_frames above 432"
    little = settings.model_copy(update={"trainer": Trainer(replay_mb=1)})
    assert checked(little)["trainer's memory"].fix == "set trainer.replay_mb to 2 or more"
