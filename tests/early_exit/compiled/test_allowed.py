"""What a trainer may compile follows from settings, device and what is installed, and is never left unexplained."""

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from layercache.early_exit.compiled import openvino_runtime
from layercache.early_exit.compiled.allowed import AllowedPrecisions, allowed_precisions, refusal
from layercache.early_exit.model.loading import Classifier
from tests.early_exit.models import classifier


@pytest.mark.parametrize(
    ("settings", "precisions", "reason"),
    [
        ({}, ("int8", "bfloat16"), ""),
        ({"runtime": "openvino"}, ("int8", "bfloat16"), ""),
        ({"precision": "int8"}, ("int8",), "model.precision is int8"),
        ({"precision": "bfloat16"}, ("bfloat16",), "model.precision is bfloat16"),
        ({"precision": "float32"}, (), "model.precision is float32, which the full model has already"),
        ({"runtime": "torch"}, (), "model.runtime is torch"),
        ({"device": torch.device("cuda")}, (), "the model is on cuda, and OpenVINO runs on the processor"),
        ({"dtype": torch.bfloat16}, (), "model.dtype is bfloat16, and a compiled model begins in float32"),
    ],
)
def test_settings_say_in_what_a_model_may_be_compiled(
    settings: dict[str, Any], precisions: tuple[str, ...], reason: str
) -> None:
    assert allowed_precisions(replace(flat(), **settings)) == AllowedPrecisions(precisions, reason)  # type: ignore[arg-type]


@pytest.mark.parametrize(("precision", "left"), [("auto", ("bfloat16",)), ("int8", ()), ("bfloat16", ("bfloat16",))])
def test_without_nncf_nothing_is_quantised(
    precision: str, left: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    openvino_runtime.nncf.cache_clear()
    allowed = allowed_precisions(replace(flat(), precision=precision))  # type: ignore[arg-type]
    openvino_runtime.nncf.cache_clear()
    assert allowed.precisions == left
    if precision != "bfloat16":
        assert "int8 needs NNCF: nncf is not installed" in allowed.reason
        assert "layercache[fast]" in allowed.reason


def test_a_model_in_another_dtype_still_takes_up_what_was_compiled() -> None:
    """The full model then runs in that dtype, which is the user's choice, and the path in its own."""
    assert refusal(replace(flat(), dtype=torch.bfloat16)) is None


def flat() -> Classifier:
    return classifier(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)))
