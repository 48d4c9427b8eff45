"""The online trainer for one's own loop: the very one of the stack, fed by what a model answered in this process."""

import queue
from pathlib import Path
from typing import Self

from layercache.api.answers import ModelAnswers
from layercache.api.model import EarlyExitModel
from layercache.cache_training import trainer as core
from layercache.cache_training.service.state import Checkpoints
from layercache.cache_training.service.thread import TrainingThread
from layercache.cache_training.trainer import Progress
from layercache.early_exit.compiled.allowed import allowed_precisions
from layercache.early_exit.cutting import cuts
from layercache.early_exit.store.head_store import HeadStore, model_folder
from layercache.schemas.settings import Trainer as TrainerSettings

#: Records between the loop and the thread. A record is a call of the model, of one frame perhaps; the inbox bounds what
#: they may take up together.
_INBOX_RECORDS = 1024
_LOOK_S = 0.2


class OnlineTrainer:
    """Learns from what ``model`` answered, certifies, and publishes versions of heads into its store.

    It holds the same promise as the stack's trainer (it is the same): ``model.promise``, for the stream that it
    observes. So let it observe *all* answers: leaving some out by what they show makes the rest no fair sample, and the
    certificate void. Made before the model's first answers, since answers carry what they teach only from then on.

    Either the loop drives it, by :meth:`observe` and :meth:`step`, or a thread of its own learns from :meth:`start` (or
    ``with``) to :meth:`stop`, beside a loop that has but :meth:`observe` to call. Only one trainer may work on a store.
    ``settings`` bound its memory and say how many cuts it tries; with a ``state_dir`` what it has learnt, and which
    frames it may never use again, outlive the process, and without it a new one begins anew. What is published stays.

    >>> import numpy as np
    >>> model = EarlyExitModel.from_spec(
    ...     "examples/fashion_mnist.py:build", store="memory://trained", runtime="torch")
    >>> trainer = OnlineTrainer(model, settings=TrainerSettings(ring_mb=8, replay_mb=8, max_cuts=1))
    >>> trainer.observe(model(np.zeros((4, 28, 28, 3), np.uint8), key="camera-1"))
    >>> trainer.progress().audits, trainer.step(seconds=0.0)
    (4, None)
    """

    def __init__(
        self,
        model: EarlyExitModel,
        store: HeadStore | None = None,
        *,
        settings: TrainerSettings | None = None,
        state_dir: Path | None = None,
    ) -> None:
        """``store``: where to publish, by default the model's own.

        Raises ``ValueError`` where there is none, :class:`~layercache.early_exit.store.head_store.StoreError` where it
        cannot be written to, and ``OSError`` for a ``state_dir`` that cannot.
        """
        store = store or model.store
        if store is None:
            raise ValueError("there is nowhere to publish heads: give the model a store, store='file://./heads', say")
        store.check_writable()
        settings = settings or TrainerSettings()
        classifier = model.classifier
        folder = None if state_dir is None else state_dir / model_folder(classifier.name, classifier.fingerprint)
        checkpoints = None if folder is None else Checkpoints(folder)
        self._model = model
        self._trainer = core.OnlineTrainer(
            cuts.trace(classifier, settings.max_cuts),
            store,
            model.promise,
            settings,
            make_durable=lambda: self._thread.checkpoint(),  # noqa: PLW0108  # made below
            precisions=allowed_precisions(classifier).precisions,
        )
        saved = checkpoints.load() if checkpoints else None
        if saved is not None:
            self._trainer.restore(*saved)
        self._thread = TrainingThread(
            self._trainer, checkpoints, settings.checkpoint_s, settings.torch_threads, _INBOX_RECORDS
        )
        model.keep_records()

    @property
    def running(self) -> bool:
        """Whether the thread of :meth:`start` learns."""
        return self._thread.is_alive()

    @property
    def heads_version(self) -> str | None:
        """The version that is live in the store, as far as the trainer has seen; None before the first."""
        return self._trainer.live.version if self._trainer.live else None

    def observe(self, answers: ModelAnswers) -> None:
        """Takes in what the model answered; each answer once, whenever it comes.

        Beside the thread it waits while that is far behind (for room for 1,024 calls' frames and 64 MiB): audits are
        never left out. Raises ``ValueError`` for answers of another model, ``RuntimeError`` where the thread has
        failed or ended.
        """
        if self._thread.ident is not None:
            self._check_thread()  # also where these answers teach nothing
        for record in answers.take_records():
            if record.header.model != self._model.classifier.fingerprint:
                raise ValueError(f"these answers are model {record.header.model[:12]}'s, not this trainer's")
            if self._thread.ident is None:
                self._trainer.ingest(record)
                continue
            while True:
                self._check_thread()
                try:
                    self._thread.inbox.put((record, self._model.stream, 0), timeout=_LOOK_S)
                    break
                except queue.Full:
                    continue

    def step(self, seconds: float = 0.3) -> str | None:
        """Learns for about ``seconds``, then chooses and certifies where that is due; the version it published, if any.

        That is then in force in the model at once. Certifying takes its own time, seconds on a slow machine. Raises
        :class:`~layercache.early_exit.store.head_store.StoreError` where the store fails: the next step tries again.
        """
        if self._thread.ident is not None:
            raise RuntimeError("it learns in a thread of its own: there is nothing to step")
        before = self.heads_version
        self._trainer.work(seconds)
        self._thread.checkpoint_if_due()
        if self.heads_version == before:
            return None
        self._model.refresh()
        return self.heads_version

    def start(self) -> None:
        """Learns in a thread from now on, with as many threads of torch as the settings say, one by default.

        It shares Python's lock with the loop. Where that matters, leave the training to a process of its own: the
        stack's, which frames reach over Kafka.
        """
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the turn under way; with a ``state_dir``, what was learnt is saved.

        For good: :meth:`observe` must not be called any more. Raises ``RuntimeError`` where the thread had failed.
        """
        if self._thread.ident is None:
            self._thread.checkpoint()
            return
        self._thread.stop()
        self._check_failure()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def progress(self) -> Progress:
        """Where things stand: audits, views, attempts, what the live version should save, and where it errs most."""
        return self._trainer.progress()

    def _check_thread(self) -> None:
        self._check_failure()
        if not self._thread.is_alive():
            raise RuntimeError("the trainer has been stopped: make another to go on")

    def _check_failure(self) -> None:
        if self._thread.failure is not None:
            raise RuntimeError(f"the trainer has failed: {self._thread.failure}") from self._thread.failure
