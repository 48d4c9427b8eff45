"""The doctor says what runs the model and why, and how to get what is missing."""

from typing import Any

import pytest

from layercache.doctor import model
from layercache.doctor.checks import Finding
from layercache.schemas.settings import Settings
from tests.support.tiny_model import TinyModel
from tests.support.without_openvino import without_openvino


def findings(tiny: TinyModel, **changed: Any) -> dict[str, Finding]:
    settings = Settings(model=tiny.settings.model_copy(update=changed))
    return {one.check: one for one in model.check(settings, lambda traced: None)}


def test_without_openvino_it_says_how_to_get_it(tiny_model: TinyModel) -> None:
    with without_openvino():
        found = findings(tiny_model, runtime="auto")
    assert found["runtime"].state == "warning"
    assert found["runtime"].found.startswith("the full model runs by PyTorch: openvino is not installed")
    assert "pip install 'layercache[fast]'" in found["runtime"].fix
    assert found["compiled exits"].found.startswith("none (openvino is not installed")
    assert "other runtimes" not in found


def test_what_was_asked_for_and_cannot_be_is_an_error(tiny_model: TinyModel) -> None:
    found = findings(tiny_model, runtime="openvino", dtype="bfloat16")["runtime"]
    assert (found.state, found.found) == ("error", "model.runtime is openvino, but model.dtype is bfloat16")
    assert found.fix == "set model.runtime to auto"


def test_a_model_of_which_others_take_minutes_to_make_is_left_to_profile(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "_LONGEST_MS", 0.0)
    found = findings(tiny_model, runtime="openvino", precision="bfloat16")
    assert found["runtime"].found.startswith("the full model runs by OpenVINO: in batches of 1 ")
    assert found["compiled exits"].found == "the trainer may compile it in bfloat16 (model.precision is bfloat16)"
    assert found["other runtimes"].state == "skipped"
    assert "layercache profile" in found["other runtimes"].found
