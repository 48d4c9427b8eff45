"""What the user could run instead: the quickest plain runtime, made and chosen on the stream's first frames."""

import threading

import torch
from torch import Tensor

from layercache.early_exit.cutting.cuts import TracedModel
from layercache.measuring import race
from layercache.measuring.plain_runtimes import PYTORCH, PlainRuntimes
from layercache.measuring.race import Rival
from layercache.report.footage import Batch
from layercache.schemas.settings import Settings
from layercache.stream.frames.frame import Frame

#: Frames that set the ranges of int8: fewer make them wider than they are, more make none better.
_FEWEST, _MOST = 16, 300
#: As many bytes of pictures at most.
_KEPT_BYTES = 64_000_000
#: Making int8 runs every frame some three times, and may take so much of the time for races.
_PASSES, _SHARE = 3, 0.3
#: A shorter report does not compile: that alone takes some ten seconds.
_LEAST_S = 20.0


class Opening:
    """The stream's first frames."""

    def __init__(self, seconds: float, race_s: float, frame_s: float) -> None:
        """For a report of so many ``seconds``, of which races have ``race_s``, and a model that takes ``frame_s``."""
        self._seconds = seconds
        self._room = min(_MOST, max(_FEWEST, int(_SHARE * race_s / (_PASSES * frame_s))))
        self._frames: list[Frame] = []
        self._pictures: list[Tensor] = []

    def take(self, batch: Batch) -> None:
        """Keeps what there is room for."""
        size = max(1, batch.pictures[0].numel())
        room = min(self._room, max(_FEWEST, _KEPT_BYTES // size)) - len(self._frames)
        if room > 0:
            self._frames += batch.frames[:room]
            self._pictures.append(batch.pictures[:room])

    def rival(self, settings: Settings, traced: TracedModel, stop: threading.Event) -> Rival:
        """The quickest plain runtime; PyTorch, with the reason, where there was no time to try another.

        A ``KeyboardInterrupt`` sets ``stop``, once which is set nothing is tried.
        """
        try:
            if not stop.is_set():
                return self._quickest(settings, traced)
        except KeyboardInterrupt:
            stop.set()
        return Rival(PYTORCH, note="the report was stopped before others were tried")

    def _quickest(self, settings: Settings, traced: TracedModel) -> Rival:
        if self._seconds < _LEAST_S:
            return Rival(PYTORCH, note="others take longer to make than --minutes allows")
        plain = PlainRuntimes.compiled(traced, torch.cat(self._pictures))
        return race.rival(settings, traced, plain, self._frames)
