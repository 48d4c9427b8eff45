"""Builds models with a function in a user's own Python file."""

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from torch import nn

from layercache.early_exit.model import metadata
from layercache.early_exit.model.fingerprint import IMPORTED
from layercache.early_exit.model.metadata import Metadata
from layercache.early_exit.model.weights import ModelError, load_weights, weights_file
from layercache.schemas import settings as settings_schema


def build(settings: settings_schema.Model) -> tuple[nn.Module, Metadata]:
    """The model ``path/to/file.py:FUNCTION``, and what the TOML file of the same name says about it.

    Raises :class:`ModelError`.
    """
    file, colon, function = settings.spec.rpartition(":")
    if not colon or not function.isidentifier():
        raise ModelError(
            f"{settings.spec!r} is no model: write torchvision:NAME, timm:NAME or path/to/file.py:FUNCTION, "
            "FUNCTION being any function that returns an nn.Module"
        )
    path = Path(file)
    same_name = path.with_suffix(".toml")
    toml = settings.metadata or (same_name if same_name.is_file() else None)
    known = metadata.read(toml) if toml else Metadata()
    build = getattr(_import(path), function, None)
    if not callable(build):
        raise ModelError(f"{path} has no function {function!r}")
    try:
        module = build()
    except Exception as error:  # the user's own code
        raise ModelError(f"{settings.spec} failed: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"{settings.spec} returned a {type(module).__name__}, not an nn.Module")
    weights = weights_file(settings, known, ())
    if weights:
        load_weights(module, weights)
    name = known.name or path.stem
    return module, Metadata(known.preprocessing, known.classes, name=name)


def _import(path: Path) -> ModuleType:
    """Imports the Python file at ``path`` under a unique name, so that two models' files never shadow each other."""
    if not path.is_file():
        raise ModelError(f"no Python file at {path}")
    name = IMPORTED + hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look themselves up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code
        del sys.modules[name]
        raise ModelError(f"cannot import {path}: {type(error).__name__}: {error}") from error
    return module
