"""Layercache: cheaper image classification over Kafka, by early exits that learn while they serve.

The model side in five lines; everything below is imported when it is first used::

    import layercache

    settings = layercache.load_settings(Path("layercache.toml"))
    traced = layercache.trace(layercache.load_model(settings.model))
    answers = layercache.Engine(traced).run(frames, audits)  # uint8 [N, C, h, w], bool [N]
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from early_exit.cuts import Cut as Cut
    from early_exit.cuts import TracedModel as TracedModel
    from early_exit.cuts import trace as trace
    from early_exit.engine import Answers as Answers
    from early_exit.engine import Engine as Engine
    from early_exit.heads import CacheHeads as CacheHeads
    from early_exit.heads import load_heads as load_heads
    from early_exit.models import Classifier as Classifier
    from early_exit.models import load as load_model
    from early_exit.store import HeadStore as HeadStore
    from early_exit.store import open_store as open_store
    from schemas.manifest import Manifest as Manifest
    from schemas.prediction import Prediction as Prediction
    from schemas.settings import Settings as Settings
    from schemas.settings import load as load_settings

#: Where each public name lives: module and, where it has another name there, that.
_PUBLIC = {
    "Answers": "early_exit.engine",
    "CacheHeads": "early_exit.heads",
    "Classifier": "early_exit.models",
    "Cut": "early_exit.cuts",
    "Engine": "early_exit.engine",
    "HeadStore": "early_exit.store",
    "Manifest": "schemas.manifest",
    "Prediction": "schemas.prediction",
    "Settings": "schemas.settings",
    "TracedModel": "early_exit.cuts",
    "load_heads": "early_exit.heads",
    "load_model": "early_exit.models:load",
    "load_settings": "schemas.settings:load",
    "open_store": "early_exit.store",
    "trace": "early_exit.cuts",
}

__all__ = [
    "Answers",
    "CacheHeads",
    "Classifier",
    "Cut",
    "Engine",
    "HeadStore",
    "Manifest",
    "Prediction",
    "Settings",
    "TracedModel",
    "__version__",
    "load_heads",
    "load_model",
    "load_settings",
    "open_store",
    "trace",
]


def __getattr__(name: str) -> Any:
    """The public names, imported on first use: ``import layercache`` alone loads neither torch nor Kafka (PEP 562)."""
    if name == "__version__":
        try:
            return version("layercache")
        except PackageNotFoundError:
            return "unknown (not installed)"
    if name in _PUBLIC:
        module, _, attribute = _PUBLIC[name].partition(":")
        return getattr(import_module(module), attribute or name)
    raise AttributeError(f"module 'layercache' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
