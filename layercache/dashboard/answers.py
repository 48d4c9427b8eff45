"""Adds up predictions, one by one in the order in which they arrive; without a clock or a broker."""

import random
from collections import Counter, deque
from collections.abc import Mapping, Sequence

from layercache.dashboard.slices import Windows
from layercache.dashboard.state import END, Flow, Segment
from layercache.schemas.manifest import Manifest, flops_shares, time_shares
from layercache.schemas.prediction import FULL, Prediction

#: The flow shows this many of the latest answers.
_FLOW_FRAMES = 2_000
#: The tally remembers the names of so many classes; models have some twenty thousand at most.
_MAX_NAMES = 50_000
#: The flow shows at most so many cuts: the trainer tries 8.
_MAX_CUTS = 32

#: By exit, what a frame cost that left there: FLOPs and time, as shares of the plain model's.
Costs = Mapping[str, tuple[float, float]]
_PLAIN = (1.0, 1.0)


def costs(manifest: Manifest | None) -> Costs:
    """Costs by the exit's name; ``full`` is for a frame that passed every exit.

    >>> {name: cost for name, cost in costs(heads.manifest).items()}
    {'layer2': (0.48, 0.5), 'full': (1.0, 1.0)}
    """
    times = time_shares(manifest)
    return {name: (flops, times[name]) for name, flops in flops_shares(manifest).items()}


class AnswerTally:
    """Counts one model's predictions: by time, by exit, and a sample of them to be shown as pictures."""

    def __init__(self, windows: Windows, shown: int, seed: int = 0) -> None:
        """``shown``: the most that a caller may ask :meth:`pick` for."""
        self.windows = windows
        self.names: dict[int, str] = {}
        """Class names by label, as predictions have them."""
        self._costs: dict[str | None, Costs] = {None: costs(None)}
        self._are_exits_closed = False
        self._flow: deque[str] = deque(maxlen=_FLOW_FRAMES)
        self._exits: Counter[str] = Counter()
        self._picked: list[Prediction] = []
        self._offered = 0
        self._shown = shown
        self._random = random.Random(seed)

    def set_versions(self, manifests: Sequence[Manifest], are_exits_closed: bool = False) -> None:
        """Takes the costs of frames from these versions, and forgets those of versions that the store no longer has.

        ``are_exits_closed``: an operator keeps all exits closed now.
        """
        self._costs = {None: costs(None)} | {manifest.version: costs(manifest) for manifest in manifests}
        self._are_exits_closed = are_exits_closed

    def add(self, prediction: Prediction, now_ms: int) -> None:
        """Counts one prediction."""
        times = prediction.times
        # A frame without a timestamp has no latency. A publisher whose clock is ahead would make it negative.
        latency_ms = max(0, times.predicted_ms - times.frame_ms) if times.frame_ms > 0 else None
        for counts in self.windows.at(times.predicted_ms, now_ms):
            counts.answered(prediction.exit != FULL, self._cost(prediction), latency_ms)
        self._count_exit(prediction.exit)
        if len(self.names) < _MAX_NAMES:
            self.names[prediction.label] = prediction.class_name
        self._sample(prediction)

    def count_skipped(self, count: int, now_ms: int) -> None:
        """Counts answers that the reader passed over unread."""
        for counts in self.windows.at(now_ms, now_ms):
            counts.skipped += count

    def pick(self, most: int) -> list[Prediction]:
        """A fair sample of the answers since the last call, oldest first (reservoir sampling; Vitter 1985)."""
        picked, self._picked, self._offered = self._picked, [], 0
        if len(picked) > most:
            picked = self._random.sample(picked, most)
        return sorted(picked, key=lambda prediction: prediction.times.predicted_ms)

    def flow(self, manifests: Sequence[Manifest], live: str | None) -> Flow:
        """The latest answers' way through the model, cut where any of the versions has an exit.

        Cuts are in the order of the time spent before them, by the newest version that has the cut: FLOPs put none, as
        the model in int8 spends as many as the model itself.
        """
        shares: dict[str, float] = {}
        for manifest in manifests:  # newest first
            for exit_ in manifest.exits:
                shares.setdefault(exit_.cut, exit_.time_share)
        in_force = next((manifest for manifest in manifests if manifest.version == live), None)
        is_open = {exit_.cut for exit_ in in_force.exits} if in_force else set()
        exits = Counter({name: count for name, count in self._exits.items() if count and name != FULL})
        cuts = sorted((cut for cut in shares if cut in is_open or exits[cut]), key=lambda cut: shares[cut])[:_MAX_CUTS]
        # The place of an exit is unknown once the store no longer has its version: the flow leaves its frames out.
        frames = sum(exits[cut] for cut in cuts) + self._exits[FULL]
        segments, spent = [], 0.0
        for cut in cuts:
            own = max(0.0, shares[cut] - spent)
            spent = max(spent, shares[cut])
            segments.append(Segment(cut=cut, time_share=own, left=exits[cut], open=cut in is_open))
        whole = time_shares(in_force)[FULL]
        segments.append(Segment(cut=END, time_share=max(0.0, whole - spent), left=self._exits[FULL], open=True))
        return Flow(segments=tuple(segments), frames=frames)

    def _cost(self, prediction: Prediction) -> tuple[float, float] | None:
        """What the frame cost; None where the store no longer has its version.

        While an operator keeps all exits closed, a worker runs no head, although its predictions still name the
        version. Such predictions name no budget. A worker whose own audits closed its exits, or one in shadow mode,
        names no budget either, but still scores its exits: the store's pin tells these cases apart.
        """
        if self._are_exits_closed and prediction.exit == FULL and prediction.max_disagreement is None:
            return _PLAIN
        return self._costs.get(prediction.heads_version, {}).get(prediction.exit)

    def _count_exit(self, exit_: str) -> None:
        if len(self._flow) == _FLOW_FRAMES:
            oldest = self._flow[0]
            self._exits[oldest] -= 1
            if not self._exits[oldest]:
                del self._exits[oldest]
        self._flow.append(exit_)
        self._exits[exit_] += 1

    def _sample(self, prediction: Prediction) -> None:
        self._offered += 1
        if len(self._picked) < self._shown:
            self._picked.append(prediction)
        elif (place := self._random.randrange(self._offered)) < self._shown:
            self._picked[place] = prediction
