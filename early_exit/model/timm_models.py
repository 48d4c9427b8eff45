"""Builds models of ``timm``, if it is installed: https://huggingface.co/docs/timm."""

import difflib
import logging
from types import ModuleType
from typing import Any

from torch import nn

from layercache.early_exit.model import metadata
from layercache.early_exit.model.metadata import Metadata
from layercache.early_exit.model.weights import ModelError, load_weights, weights_file
from layercache.schemas import settings as settings_schema

log = logging.getLogger(__name__)

TIMM = "timm:"
_DEFAULT = "DEFAULT"


def build(settings: settings_schema.Model) -> tuple[nn.Module, Metadata]:
    """The model ``timm:NAME``, and what timm's configuration says about its pictures and classes.

    ``settings.weights`` is a file, ``DEFAULT`` for the pretrained weights that timm gives this name (a name may have
    a tag: ``vit_base_patch16_224.augreg_in1k``), or another of its tags. Raises :class:`ModelError`.
    """
    timm = _timm(settings.spec)
    name = settings.spec.removeprefix(TIMM)
    architecture, _, tag = name.partition(".")
    tags = _tags(timm, architecture)
    if tag and tag not in tags:
        raise ModelError(f"timm has no weights {tag!r} for {architecture}; there are {', '.join(tags) or 'none'}")
    given = Metadata()
    if settings.metadata is not None:
        known = metadata.of_timm(timm.get_pretrained_cfg(name).to_dict())
        given = metadata.read(settings.metadata, known.preprocessing)
    pretrained = settings.weights == _DEFAULT or settings.weights in tags
    if pretrained and settings.weights != _DEFAULT:
        name = f"{architecture}.{settings.weights}"
    file = None if pretrained else weights_file(settings, given, tuple(tags))
    try:
        module = timm.create_model(name, pretrained=pretrained, **_options(timm, name, given, pretrained))
    except Exception as error:  # a download may fail in many ways
        raise ModelError(f"cannot build {settings.spec} with weights {settings.weights}: {error}") from error
    if not getattr(module, "num_classes", 1):
        raise ModelError(f"{settings.spec} has no classifier, its weights are for features alone; take another tag")
    if file:
        load_weights(module, file)
    elif not pretrained:
        log.warning("%s has no weights: it answers at random, and differently in every process", settings.spec)
    known = metadata.of_timm(module.pretrained_cfg)
    return module, Metadata(given.preprocessing or known.preprocessing, given.classes or known.classes, name=given.name)


def _timm(spec: str) -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ModelError(f"{spec} needs timm, which is not installed here: pip install timm") from error
    found: ModuleType = timm
    return found


def _tags(timm: ModuleType, architecture: str) -> list[str]:
    """The pretrained weights of an architecture. Raises :class:`ModelError` where there is no such architecture."""
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.4)
        raise ModelError(f"timm has no model {architecture!r}" + (f"; did you mean {', '.join(near)}?" if near else ""))
    names = timm.models.get_arch_pretrained_cfgs(architecture)
    return [tag for _, _, tag in (name.partition(".") for name in names) if tag]


def _options(timm: ModuleType, name: str, given: Metadata, pretrained: bool) -> dict[str, Any]:
    """Options of timm's builder that make the model fit the metadata file."""
    options: dict[str, Any] = {}
    if given.classes and not pretrained:
        options["num_classes"] = len(given.classes)
    if given.preprocessing and timm.get_pretrained_cfg(name).fixed_input_size:
        options["img_size"] = given.preprocessing.size
    return options
