"""What may be compiled for a classifier: by its settings, where it runs, and what is installed."""

from dataclasses import dataclass

import torch

from layercache.early_exit.compiled.openvino_runtime import CompileError, missing, nncf
from layercache.early_exit.model.loading import Classifier
from layercache.schemas.manifest import PathPrecision


def refusal(classifier: Classifier) -> str | None:
    """Why nothing compiled runs for this classifier here; None where it does."""
    if classifier.runtime == "torch":
        return "model.runtime is torch"
    if classifier.device.type != "cpu":
        return f"the model is on {classifier.device}, and OpenVINO runs on the processor"
    return missing()


@dataclass(frozen=True)
class AllowedPrecisions:
    """In what a trainer may compile the model."""

    precisions: tuple[PathPrecision, ...]
    reason: str
    """Why not in the others, for people; empty where every precision is allowed."""


def allowed_precisions(classifier: Classifier) -> AllowedPrecisions:
    """In what a trainer may compile the model. Loads OpenVINO, and NNCF where int8 is wanted."""
    wanted = classifier.precision
    why = refusal(classifier)
    if why is None and classifier.dtype != torch.float32:
        why = f"model.dtype is {str(classifier.dtype).removeprefix('torch.')}, and a compiled model begins in float32"
    if why is None and wanted == "float32":
        why = "model.precision is float32, which the full model has already"
    if why is not None:
        return AllowedPrecisions((), why)
    if wanted == "bfloat16":
        return AllowedPrecisions(("bfloat16",), "model.precision is bfloat16")
    try:
        nncf()
    except CompileError as error:
        return AllowedPrecisions(("bfloat16",) if wanted == "auto" else (), f"int8 needs NNCF: {error}")
    if wanted == "int8":
        return AllowedPrecisions(("int8",), "model.precision is int8")
    return AllowedPrecisions(("int8", "bfloat16"), "")
