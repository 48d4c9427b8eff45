"""Layercache: cheaper image classification, by early exits that learn while they serve.

Over Kafka, as a client of running workers::

    with layercache.Client("localhost:9092") as client:
        prediction = client.predict("cat.jpg", key="camera-1")

In one's own loop, without Kafka::

    model = layercache.EarlyExitModel(module, layercache.Preprocessing(...), classes, store="file://./heads")
    with layercache.OnlineTrainer(model) as trainer:
        for frames in stream:
            answers = model(frames, key="camera-1")
            trainer.observe(answers)

``docs/python.md`` tells the rest. Every name is imported when it is first used; :class:`Engine`, :func:`trace` and what
they need are the parts that these are made of.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cache_training.trainer import Progress as Progress
    from early_exit.blobs import StoreError as StoreError
    from early_exit.cuts import Cut as Cut
    from early_exit.cuts import CutError as CutError
    from early_exit.cuts import TracedModel as TracedModel
    from early_exit.cuts import trace as trace
    from early_exit.engine import Answers as Answers
    from early_exit.engine import Engine as Engine
    from early_exit.heads import CacheHeads as CacheHeads
    from early_exit.heads import load_heads as load_heads
    from early_exit.models import Classifier as Classifier
    from early_exit.models import load as load_model
    from early_exit.preprocessing import Preprocessing as Preprocessing
    from early_exit.store import HeadStore as HeadStore
    from early_exit.store import open_store as open_store
    from early_exit.weights import ModelError as ModelError
    from layercache.api.answers import ModelAnswer as ModelAnswer
    from layercache.api.answers import ModelAnswers as ModelAnswers
    from layercache.api.async_client import AsyncClient as AsyncClient
    from layercache.api.async_client import AsyncFollowing as AsyncFollowing
    from layercache.api.client import Client as Client
    from layercache.api.following import DeadLetterError as DeadLetterError
    from layercache.api.following import Following as Following
    from layercache.api.model import EarlyExitModel as EarlyExitModel
    from layercache.api.model import Statistics as Statistics
    from layercache.api.publishing import PublishError as PublishError
    from layercache.api.training import OnlineTrainer as OnlineTrainer
    from schemas.manifest import Manifest as Manifest
    from schemas.prediction import Prediction as Prediction
    from schemas.settings import Promise as Promise
    from schemas.settings import Settings as Settings
    from schemas.settings import Store as StoreSettings
    from schemas.settings import Trainer as TrainerSettings
    from schemas.settings import load as load_settings
    from stream.clients import KafkaUnusable as KafkaUnusable
    from stream.decode import DecodeError as DecodeError
    from stream.watch import DeadLetter as DeadLetter

#: Where each public name lives: module and, where it has another name there, that.
_PUBLIC = {
    "Answers": "early_exit.engine",
    "AsyncClient": "layercache.api.async_client",
    "AsyncFollowing": "layercache.api.async_client",
    "CacheHeads": "early_exit.heads",
    "Classifier": "early_exit.models",
    "Client": "layercache.api.client",
    "Cut": "early_exit.cuts",
    "CutError": "early_exit.cuts",
    "DeadLetter": "stream.watch",
    "DeadLetterError": "layercache.api.following",
    "DecodeError": "stream.decode",
    "EarlyExitModel": "layercache.api.model",
    "Engine": "early_exit.engine",
    "Following": "layercache.api.following",
    "HeadStore": "early_exit.store",
    "KafkaUnusable": "stream.clients",
    "Manifest": "schemas.manifest",
    "ModelAnswer": "layercache.api.answers",
    "ModelAnswers": "layercache.api.answers",
    "ModelError": "early_exit.weights",
    "OnlineTrainer": "layercache.api.training",
    "Prediction": "schemas.prediction",
    "Preprocessing": "early_exit.preprocessing",
    "Progress": "cache_training.trainer",
    "Promise": "schemas.settings",
    "PublishError": "layercache.api.publishing",
    "Settings": "schemas.settings",
    "Statistics": "layercache.api.model",
    "StoreError": "early_exit.blobs",
    "StoreSettings": "schemas.settings:Store",
    "TracedModel": "early_exit.cuts",
    "TrainerSettings": "schemas.settings:Trainer",
    "load_heads": "early_exit.heads",
    "load_model": "early_exit.models:load",
    "load_settings": "schemas.settings:load",
    "open_store": "early_exit.store",
    "trace": "early_exit.cuts",
}

__all__ = [
    "Answers",
    "AsyncClient",
    "AsyncFollowing",
    "CacheHeads",
    "Classifier",
    "Client",
    "Cut",
    "CutError",
    "DeadLetter",
    "DeadLetterError",
    "DecodeError",
    "EarlyExitModel",
    "Engine",
    "Following",
    "HeadStore",
    "KafkaUnusable",
    "Manifest",
    "ModelAnswer",
    "ModelAnswers",
    "ModelError",
    "OnlineTrainer",
    "Prediction",
    "Preprocessing",
    "Progress",
    "Promise",
    "PublishError",
    "Settings",
    "Statistics",
    "StoreError",
    "StoreSettings",
    "TracedModel",
    "TrainerSettings",
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
