"""Builds torchvision's classifiers."""

import difflib
import logging
from typing import Any

import torchvision.models
from torch import nn

from layercache.early_exit.model import metadata
from layercache.early_exit.model.metadata import Metadata
from layercache.early_exit.model.weights import ModelError, load_weights, weights_file
from layercache.schemas import settings as settings_schema

log = logging.getLogger(__name__)

TORCHVISION = "torchvision:"

#: Options of builders that change the model: weights in files were made with these.
_FILE_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True},
    "inception_v3": {"transform_input": True},
}


def build(settings: settings_schema.Model) -> tuple[nn.Module, Metadata]:
    """The model ``torchvision:NAME``, and what its weights say about pictures and classes.

    ``settings.weights`` is a file or the name of an entry of its weights. Raises :class:`ModelError`.
    """
    name = settings.spec.removeprefix(TORCHVISION)
    builders = torchvision.models.list_models(module=torchvision.models)
    if name not in builders:
        near = difflib.get_close_matches(name, builders, n=3, cutoff=0.4)
        raise ModelError(
            f"torchvision has no classifier {name!r}" + (f"; did you mean {', '.join(near)}?" if near else "")
        )
    entries = torchvision.models.get_model_weights(name)
    entry = getattr(entries, settings.weights, None) if settings.weights else None
    known = metadata.of_torchvision(entry or getattr(entries, "DEFAULT"))  # noqa: B009 - an alias mypy cannot see
    given = Metadata()
    if settings.metadata is not None:
        given = metadata.read(settings.metadata, known.preprocessing)
    file = None if entry else weights_file(settings, given, tuple(entries.__members__))
    options = _FILE_OPTIONS.get(name, {}) if file else {}
    if name in _FILE_OPTIONS and not entry:
        options = options | {"init_weights": False}  # initialising takes a minute
    if given.classes and not entry:
        options = options | {"num_classes": len(given.classes)}
    if given.preprocessing and not entry:
        options = options | _input_size_options(name, given.preprocessing.size)
    try:
        module = torchvision.models.get_model(name, weights=entry, **options)
    except Exception as error:  # a download may fail in many ways
        raise ModelError(f"cannot build {settings.spec} with weights {settings.weights}: {error}") from error
    if file:
        load_weights(module, file)
    elif not entry:
        log.warning("%s has no weights: it answers at random, and differently in every process", settings.spec)
    merged = Metadata(given.preprocessing or known.preprocessing, given.classes or known.classes, name=given.name)
    return module, merged


def _input_size_options(name: str, size: tuple[int, int]) -> dict[str, Any]:
    """Options of builders whose models take one input size only."""
    if name.startswith("vit_"):
        return {"image_size": size[0]}
    return {"input_size": size} if name.startswith("maxvit_") else {}
