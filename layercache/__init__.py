"""Layercache: cheaper image classification, by early exits that learn while they serve.

Over Kafka, as a client of running workers::

    with layercache.Client("localhost:9092") as client:
        prediction = client.predict("cat.jpg", key="camera-1")

In your own loop, without Kafka::

    model = layercache.EarlyExitModel(module, layercache.Preprocessing(...), classes, store="file://./heads")
    with layercache.OnlineTrainer(model) as trainer:
        for frames in stream:
            answers = model(frames, key="camera-1")
            trainer.observe(answers)

See ``docs/python.md`` for the rest. Python imports each name on its first use. :class:`Engine`, :func:`trace` and what
they need are the parts that the classes above are made of.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from layercache.cache_training.trainer import Progress as Progress
    from layercache.early_exit.cutting.cuts import Cut as Cut
    from layercache.early_exit.cutting.cuts import CutError as CutError
    from layercache.early_exit.cutting.cuts import TracedModel as TracedModel
    from layercache.early_exit.cutting.cuts import trace as trace
    from layercache.early_exit.engine import Answers as Answers
    from layercache.early_exit.engine import Engine as Engine
    from layercache.early_exit.heads.cache_heads import CacheHeads as CacheHeads
    from layercache.early_exit.heads.loading import load_heads as load_heads
    from layercache.early_exit.model.loading import Classifier as Classifier
    from layercache.early_exit.model.loading import load as load_model
    from layercache.early_exit.model.preprocessing import Preprocessing as Preprocessing
    from layercache.early_exit.model.weights import ModelError as ModelError
    from layercache.early_exit.store.blobs import StoreError as StoreError
    from layercache.early_exit.store.head_store import HeadStore as HeadStore
    from layercache.early_exit.store.head_store import open_store as open_store
    from layercache.schemas.manifest import Manifest as Manifest
    from layercache.schemas.prediction import Prediction as Prediction
    from layercache.schemas.settings import Promise as Promise
    from layercache.schemas.settings import Settings as Settings
    from layercache.schemas.settings import Store as StoreSettings
    from layercache.schemas.settings import Trainer as TrainerSettings
    from layercache.schemas.settings import load as load_settings
    from layercache.stream.frames.decoding import DecodeError as DecodeError
    from layercache.stream.kafka.clients import KafkaUnusable as KafkaUnusable
    from layercache.stream.watching import DeadLetter as DeadLetter

#: The module of each public name and, if the name differs there, its name in that module.
_PUBLIC = {
    "Answers": "layercache.early_exit.engine",
    "AsyncClient": "layercache.api.async_client",
    "AsyncFollowing": "layercache.api.async_client",
    "CacheHeads": "layercache.early_exit.heads.loading",
    "Classifier": "layercache.early_exit.model.loading",
    "Client": "layercache.api.client",
    "Cut": "layercache.early_exit.cutting.cuts",
    "CutError": "layercache.early_exit.cutting.cuts",
    "DeadLetter": "layercache.stream.watching",
    "DeadLetterError": "layercache.api.following",
    "DecodeError": "layercache.stream.frames.decoding",
    "EarlyExitModel": "layercache.api.model",
    "Engine": "layercache.early_exit.engine",
    "Following": "layercache.api.following",
    "HeadStore": "layercache.early_exit.store.head_store",
    "KafkaUnusable": "layercache.stream.kafka.clients",
    "Manifest": "layercache.schemas.manifest",
    "ModelAnswer": "layercache.api.answers",
    "ModelAnswers": "layercache.api.answers",
    "ModelError": "layercache.early_exit.model.weights",
    "OnlineTrainer": "layercache.api.training",
    "Prediction": "layercache.schemas.prediction",
    "Preprocessing": "layercache.early_exit.model.preprocessing",
    "Progress": "layercache.cache_training.trainer",
    "Promise": "layercache.schemas.settings",
    "PublishError": "layercache.api.publishing",
    "Settings": "layercache.schemas.settings",
    "Statistics": "layercache.api.model",
    "StoreError": "layercache.early_exit.store.blobs",
    "StoreSettings": "layercache.schemas.settings:Store",
    "TracedModel": "layercache.early_exit.cutting.cuts",
    "TrainerSettings": "layercache.schemas.settings:Trainer",
    "load_heads": "layercache.early_exit.heads.loading",
    "load_model": "layercache.early_exit.model.loading:load",
    "load_settings": "layercache.schemas.settings:load",
    "open_store": "layercache.early_exit.store.head_store",
    "trace": "layercache.early_exit.cutting.cuts",
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
