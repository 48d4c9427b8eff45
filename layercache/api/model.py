"""Any classifier with exits, for one's own loop: what a worker does with a micro-batch, without Kafka."""

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from torch import Tensor, nn

from layercache.api.answers import ModelAnswers
from layercache.api.pictures import Picture, batched
from layercache.early_exit.cutting import cuts
from layercache.early_exit.model import loading
from layercache.early_exit.model.loading import Classifier
from layercache.early_exit.model.preprocessing import Preprocessing
from layercache.early_exit.runtimes import with_reference
from layercache.early_exit.store.head_store import HeadStore, Live, open_store
from layercache.schemas.distillation import DistillationBatch
from layercache.schemas.manifest import Manifest
from layercache.schemas.settings import Model, Promise, Runtime, Settings, Store
from layercache.stream.frames.frame import Frame
from layercache.stream.worker.answering.exit_guard import ExitGuard
from layercache.stream.worker.answering.heads_watch import HeadWatch
from layercache.stream.worker.answering.micro_batch import AnsweredBatch, MicroBatch
from layercache.stream.worker.answering.records import DistillationWriter

#: Whose picture it is, a camera's name: near-copies of one key are told apart from independent frames by it.
Key = str | bytes


class _NoStore:
    """Where no heads will ever be."""

    def live(self) -> Live:
        return Live(None, closed=False, pinned=False)

    def latest(self) -> None:
        return None

    def load(self, version: str) -> tuple[Manifest, dict[str, Tensor]]:
        raise AssertionError(f"this source never named a version {version}")


@dataclass(frozen=True)
class Statistics:
    """What a model has answered since it was made."""

    frames: int
    exits: Mapping[str, int]
    """Frames by where they left, ``full`` for the full path."""
    audits: int
    disagreements: int
    """Audits for which the exits would have answered otherwise than the full model did."""
    flops_share: float
    """FLOPs spent, heads included, as a share of what the plain model would have spent; above 1 where more were, as by
    the model in int8."""
    time_share: float
    """The same of time, by what the trainer's machine took for each exit."""


class EarlyExitModel:
    """A classifier with exits: called with pictures, it answers each as early as its certified heads allow.

    ``module`` is any ``nn.Module`` that returns logits ``[N, classes]`` (it is copied, and put into eval mode), or a
    :class:`Classifier`; ``preprocessing`` is what its pictures went through in training and ``classes`` its classes'
    names. :meth:`from_spec` and :meth:`from_settings` make one as the command line does.

    The heads come from ``store``, a :class:`HeadStore` or where one is (``file://./heads``, ``s3://…``), asked at once
    and then in the background every ``refresh_s`` seconds (None: only by :meth:`refresh`); new ones are built and
    warmed up there, and taken up between two calls. Without a store, without heads in it, and for heads that belong to
    another model, every frame runs the full path. Frames are audited at the rate that the heads' manifest says, drawn
    by their positions, and a test like each worker's own closes the exits once their audits say that they have left
    their budget (:attr:`closed`).

    Positions are counted here from 0, under ``stream``, a name that is drawn anew for each model that is made: give one
    only together with your own ``first_position``, where a stream goes on, since no two frames may share a position.

    The full model runs by PyTorch, or with ``runtime="auto"`` by OpenVINO where that is installed, quicker and answers
    alike: to find out takes seconds when the model is made. A :class:`Classifier` has a ``runtime`` of its own.

    Calls from several threads take turns. Raises :class:`~layercache.early_exit.model.loading.ModelError` for a module
    that is no classifier of such pictures, :class:`~layercache.early_exit.cutting.cuts.CutError` for one that cannot
    be cut.

    >>> import torch
    >>> from torch.nn import Conv2d, Flatten, Linear, ReLU, Sequential
    >>> module = Sequential(Conv2d(1, 4, 3), ReLU(), Flatten(), Linear(144, 2))
    >>> grey = Preprocessing(size=(8, 8), mean=(0.5,), std=(0.5,))
    >>> model = EarlyExitModel(module, grey, classes=["cat", "dog"], name="pets", store="memory://docs")
    >>> answers = model(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), key="camera-1")
    >>> len(answers), answers.exits, answers.heads_version
    (3, ('full', 'full', 'full'), None)
    >>> answers[0].class_name in model.classes
    True
    >>> model.close()
    """

    def __init__(
        self,
        module: nn.Module | Classifier,
        preprocessing: Preprocessing | None = None,
        classes: Sequence[str] | None = None,
        *,
        name: str = "model",
        store: HeadStore | Store | str | None = None,
        promise: Promise | None = None,
        mode: Literal["serve", "shadow"] = "serve",
        device: str = "cpu",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        runtime: Runtime = "auto",
        max_batch: int = 32,
        refresh_s: float | None = 1.0,
        stream: str | None = None,
        first_position: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``clock`` tells when pictures were taken, in seconds, where the caller does not say."""
        if isinstance(module, Classifier):
            classifier = module
        elif preprocessing is None:
            raise ValueError("a module needs its preprocessing: Preprocessing(size=(224, 224), mean=(…), std=(…))")
        else:
            classifier = loading.of_module(
                module, preprocessing, classes, name=name, device=device, dtype=dtype, runtime=runtime
            )
        self.classifier = with_reference(classifier, max_batch)
        self.promise = promise or Promise()
        self.traced = cuts.trace(self.classifier)
        self.store = self._opened(store)
        self.stream = stream or f"own-loop-{secrets.token_hex(8)}"
        self._heads = HeadWatch(self.store or _NoStore(), self.traced, mode, max_batch, self.promise)
        self._guard = ExitGuard(self.promise.confidence, self.promise.block_s, self.promise.block_frames)
        self._writer = DistillationWriter(self.classifier.fingerprint, self.stream, 0)
        self._max_batch = max_batch
        self._position = first_position
        self._clock = clock
        self._turn = threading.Lock()
        self._teaches = False
        self._exits: Counter[str] = Counter()
        self._audits = self._disagreements = 0
        self._flops = self._time = 0.0
        if self.store is not None:
            self._heads.look()
            if refresh_s is not None:
                self._heads.start(refresh_s)

    @classmethod
    def from_spec(
        cls,
        spec: str,
        weights: str | None = None,
        *,
        store: HeadStore | Store | str | None = None,
        promise: Promise | None = None,
        refresh_s: float | None = 1.0,
        runtime: Runtime = "auto",
    ) -> Self:
        """Of a model as the command line names it: ``torchvision:NAME``, ``timm:NAME`` or ``FILE.py:FUNCTION``.

        >>> model = EarlyExitModel.from_spec("examples/fashion_mnist.py:build", runtime="torch")
        >>> model.classes[:2], model.exits
        (('t-shirt', 'trouser'), ())
        """
        classifier = loading.load(Model(spec=spec, weights=weights, runtime=runtime))
        return cls(classifier, store=store, promise=promise, refresh_s=refresh_s)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Of the model, store and promise that workers of these settings have, in the same mode."""
        return cls(
            loading.load(settings.model),
            store=settings.store,
            promise=settings.promise,
            mode=settings.worker.mode,
            max_batch=settings.worker.max_batch,
            refresh_s=settings.store.poll_s,
        )

    def __call__(
        self,
        pictures: Picture | Iterable[Picture],
        *,
        key: Key | Sequence[Key | None] | None = None,
        taken: float | Sequence[float] | None = None,
    ) -> ModelAnswers:
        """Answers pictures: uint8 ``[N, C, h, w]`` as the model takes them, or what :func:`fitted` makes into such.

        That is one picture or several, each a PIL image, an array H x W or H x W x 3, a tensor ``[C, H, W]``, encoded
        bytes or a path. ``key`` says which camera they are from, one for all or one each; ``taken`` when, in seconds
        since the epoch, by default now. Frames of one key within ``promise.block_s`` are near-copies, which count
        together: without keys all frames are taken to be independent, and near-copies would make certificates of
        nothing.

        Raises ``ValueError`` for what is no picture.
        """
        frames = batched(pictures, self.classifier.preprocessing)
        keys, times = _keys(key, len(frames)), _times_ms(self._clock() if taken is None else taken, len(frames))
        with self._turn:
            parts = [
                self._answer(frames[rows], keys[rows], times[rows])
                for start in range(0, len(frames), self._max_batch)
                for rows in [slice(start, start + self._max_batch)]
            ]
        return self._together(parts)

    def refresh(self) -> bool:
        """Asks the store now and takes up what is live there; False where it could not be asked."""
        return self._heads.look()

    def close(self) -> None:
        """Asks the store no more; the model still answers."""
        self._heads.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names, in the order of the logits."""
        return self.classifier.classes

    @property
    def heads_version(self) -> str | None:
        """The version of the heads in force, None where there are none."""
        return self._heads.serving.version

    @property
    def exits(self) -> tuple[str, ...]:
        """Where frames may leave now; empty while nothing has been certified, and while :attr:`closed`."""
        return () if self.closed else self._heads.serving.engine.exits

    @property
    def closed(self) -> bool:
        """True while the model's own audits keep the exits of the version in force closed."""
        with self._turn:
            self._guard.choose(self._heads.serving)
            return self._guard.closed

    def statistics(self) -> Statistics:
        """What has been answered so far."""
        with self._turn:
            frames = self._exits.total()
            flops, spent = (self._flops / frames, self._time / frames) if frames else (1.0, 1.0)
            return Statistics(frames, dict(self._exits), self._audits, self._disagreements, flops, spent)

    def keep_records(self) -> None:
        """From now on answers carry what they teach; a trainer that is made for the model asks for that."""
        self._teaches = True

    def _opened(self, store: HeadStore | Store | str | None) -> HeadStore | None:
        if store is None or isinstance(store, HeadStore):
            return store
        return open_store(store, self.classifier.name, self.classifier.fingerprint)

    def _answer(self, pictures: Tensor, keys: Sequence[bytes | None], times_ms: Sequence[int]) -> "_Part":
        """One micro-batch, as a worker answers it."""
        engine = self._guard.choose(self._heads.serving)
        frames = [
            Frame(self.stream, 0, self._position + row, at_ms, key, None)
            for row, (key, at_ms) in enumerate(zip(keys, times_ms, strict=True))
        ]
        self._position += len(frames)
        answered = MicroBatch.of(frames, pictures, engine.audit_rate).answer(engine)
        self._exits.update(answered.exits)
        self._audits += int(answered.batch.audits.sum())
        self._flops += float(answered.flops_shares.sum())
        self._time += float(engine.time_shares[answered.answers.exits].sum())
        self._disagreements += int(self._guard.watch(answered).disagreed.sum())
        return _Part(answered, tuple(self._writer.records(answered)) if self._teaches else ())

    def _together(self, parts: Sequence["_Part"]) -> ModelAnswers:
        answered = [part.answered for part in parts]
        labels = np.concatenate([one.answers.labels for one in answered])
        probabilities = np.concatenate([one.answers.probabilities for one in answered])
        return ModelAnswers(
            labels=labels,
            class_names=tuple(self.classes[label] for label in labels.tolist()),
            confidences=np.take_along_axis(probabilities, labels[:, None], 1)[:, 0],
            probabilities=probabilities,
            exits=tuple(name for one in answered for name in one.exits),
            audited=np.concatenate([one.batch.audits for one in answered]),
            heads_version=answered[-1].engine.version,
            _records=[record for part in parts for record in part.records],
        )


@dataclass(frozen=True)
class _Part:
    """A micro-batch of a call, and what it teaches."""

    answered: AnsweredBatch
    records: tuple[DistillationBatch, ...]


def _keys(given: Key | Sequence[Key | None] | None, count: int) -> Sequence[bytes | None]:
    """A key for each frame. Raises ``ValueError`` where there are not as many."""
    if given is None or isinstance(given, (str, bytes)):
        given = [given] * count
    if len(given) != count:
        raise ValueError(f"there are {len(given)} keys for {count} pictures: give one for all, or one each")
    return [key.encode() if isinstance(key, str) else key for key in given]


def _times_ms(given: float | Sequence[float], count: int) -> Sequence[int]:
    """Milliseconds for each frame. Raises ``ValueError`` where there are not as many."""
    seconds = [given] * count if isinstance(given, (int, float)) else given
    if len(seconds) != count:
        raise ValueError(f"there are {len(seconds)} times for {count} pictures: give one for all, or one each")
    return [int(at * 1000) for at in seconds]
