"""The trainer's metrics for Prometheus."""

import time
from collections.abc import Callable
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector

from layercache.cache_training.trainer import Progress
from layercache.schemas.manifest import Manifest


class TrainerMetrics:
    """The trainer's metrics, in a registry of their own. Times are Unix times; ``clock`` returns the present one.

    >>> metrics = TrainerMetrics(clock=lambda: 1000.0)
    >>> metrics.turned()
    >>> metrics.registry.get_sample_value("layercache_trainer_turn_timestamp_seconds")
    1000.0
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.registry = registry = CollectorRegistry()
        self._clock = clock
        ProcessCollector(registry=registry)  # memory and processor time
        self._turn = Gauge(
            "layercache_trainer_turn_timestamp_seconds", "When the trainer last ended a turn.", registry=registry
        )
        self._checkpoint = Gauge(
            "layercache_trainer_checkpoint_timestamp_seconds",
            "When a checkpoint was last written, and what it holds acknowledged.",
            registry=registry,
        )
        self.storage_errors = Counter(
            "layercache_trainer_storage_errors",
            "Turns that failed because the store of heads or the state's disk did not answer.",
            registry=registry,
        )
        self._audits = Gauge("layercache_trainer_audits", "Audits taken in, earlier runs' included.", registry=registry)
        self._repeated = Gauge(
            "layercache_trainer_repeated_audits",
            "Audits of pictures that had come before: what heads may have learnt of them certifies nothing.",
            registry=registry,
        )
        self._window = Gauge(
            "layercache_trainer_window_frames",
            "Frames kept, by use: tuning, certification, misses and lessons to learn from.",
            ["use"],
            registry=registry,
        )
        self._independent = Gauge(
            "layercache_trainer_independent_frames",
            "How many independent frames those that wait to certify are worth, at best: near-copies count together.",
            registry=registry,
        )
        self._scenes = Gauge(
            "layercache_trainer_scenes_outlast_blocks",
            "1 where scenes last longer than promise.block_s, so that nothing is certified.",
            registry=registry,
        )
        self._views = Gauge("layercache_trainer_views", "Views made to learn from.", registry=registry)
        self._attempts = Gauge("layercache_trainer_attempts", "Attempts to certify, ever.", registry=registry)
        self._disagreeing = Gauge(
            "layercache_trainer_disagreeing_passes",
            "Frames that the trainer's own pass gave another label than the worker's.",
            registry=registry,
        )
        self._live = Gauge(
            "layercache_trainer_heads_info",
            "1 for the latest version, by why it was published.",
            ["version", "reason"],
            registry=registry,
        )
        self._created = Gauge(
            "layercache_trainer_heads_created_timestamp_seconds",
            "When the latest version was published; 0 before the first.",
            registry=registry,
        )
        self._exits = Gauge("layercache_trainer_heads_exits", "Open exits of the latest version.", registry=registry)
        self._bound = Gauge(
            "layercache_trainer_heads_certified_disagreement",
            "Certified upper bound on the latest version's disagreement; NaN where nothing is certified.",
            registry=registry,
        )
        self._expected = Gauge(
            "layercache_trainer_heads_expected",
            "What the latest version should do, audits not counted: hit_rate, flops_saved, time_saved.",
            ["share"],
            registry=registry,
        )

    def turned(self) -> None:
        """A turn has ended."""
        self._turn.set(self._clock())

    def checkpointed(self) -> None:
        """A checkpoint is written."""
        self._checkpoint.set(self._clock())

    def show(self, at: Progress, live: Manifest | None) -> None:
        """Where the trainer stands, and which version it takes to be the latest."""
        self._audits.set(at.audits)
        self._repeated.set(at.repeated)
        for use in ("tuning", "certification", "misses", "lessons"):
            self._window.labels(use).set(getattr(at, use))
        self._independent.set(at.independent)
        self._scenes.set(at.scenes_outlast)
        self._views.set(at.views)
        self._attempts.set(at.attempts)
        self._disagreeing.set(at.disagreeing_passes)
        certificate = live.certificate if live else None
        expected = live.expected if live and live.exits else None
        self._live.clear()
        self._live.labels(live.version if live else "none", live.reason if live else "none").set(1)
        self._created.set(datetime.fromisoformat(live.created).timestamp() if live else 0)
        self._exits.set(len(live.exits) if live else 0)
        self._bound.set(certificate.upper_bound if certificate else float("nan"))
        for share in ("hit_rate", "flops_saved", "time_saved"):
            self._expected.labels(share).set(getattr(expected, share) if expected else 0.0)
