"""How many frames are audited from one version to the next."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from layercache.early_exit.blocks import counted_rate, most_counted
from layercache.schemas.manifest import Manifest

#: Of the first version at most, and the divisor for each later one: later versions have less to gain. What audits of
#: independent frames cost until the next version does not depend on their rate, since that takes a number of them.
OPENING, _STEP = 0.6, 30.0
#: Of near-copies so few are audited that a window still gathers this share of what it would at :data:`OPENING`.
_KEPT = 0.9
_RATES = OPENING * 2.0 ** -np.arange(0.0, 12.0, 0.25)
#: Larger blocks are as good as these: at the rates that they call for an audit is rare in either.
_LARGEST = 10_000
#: So many audits a second notice a risk of five times the budget within a minute or so (docs/drift.md).
_WATCHED_PER_S = 5.0


@dataclass(frozen=True)
class StreamPace:
    """What a stream's audits tell of it, but for their answers."""

    block_frames: int | None
    """How many frames of a key's block may count; None while no frame has a key."""
    sizes: npt.NDArray[np.float64]
    """``[blocks]``: about how many frames blocks have."""
    frames_per_s: float
    """About so many; 0 where it is not known."""


def next_rate(live: Manifest | None, least: float, time_share: float, pace: StreamPace) -> float:
    """The audit rate of a version that has exits and follows ``live``.

    In the end audits take the share ``least`` of the workers' time, or of the frames if that is more audits than
    watching takes. ``time_share`` is what an average frame takes with the new exits, of what an audit takes.
    """
    enough = _WATCHED_PER_S / pace.frames_per_s if pace.frames_per_s else least
    watching = min(least, max(enough, least * time_share))
    if live and live.exits:
        return max(watching, live.audit_rate / _STEP * watching / least)
    return max(watching, OPENING if pace.block_frames is None else _telling(pace.block_frames, pace.sizes))


def _telling(block_frames: int, sizes: npt.NDArray[np.float64]) -> float:
    """The least rate at which audits of such blocks are worth nearly as much as at :data:`OPENING`.

    >>> round(_telling(10, np.ones(200)), 2), round(_telling(10, np.full(200, 300.0)), 3)
    (0.5, 0.011)
    """
    if not len(sizes):
        return OPENING
    worth = np.array([_worth(rate, block_frames, sizes) for rate in _RATES])
    return float(_RATES[np.flatnonzero(worth >= _KEPT * worth[0])[-1]])


def _worth(rate: float, block_frames: int, sizes: npt.NDArray[np.float64]) -> float:
    """To how many frames that count singly the audits of these blocks are worth at an audit rate, on average."""
    rate = min(rate, counted_rate(block_frames))
    most = most_counted(block_frames, rate)
    different, times = np.unique(np.clip(np.round(sizes), 1, _LARGEST), return_counts=True)
    # The mean of min(audits, most) is the sum of the chances to have at least 1, at least 2, ... audits.
    counted = stats.binom.sf(np.arange(most)[:, None], different, rate).sum(0)
    return float(counted @ times) / most
