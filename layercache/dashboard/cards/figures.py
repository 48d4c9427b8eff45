"""The five numbers that matter, each with a small picture."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from layercache.dashboard import state
from layercache.dashboard.cards import promise
from layercache.dashboard.cards.parts import Part, box, svg, text
from layercache.dashboard.words import NOTHING, count, milliseconds, percent, plural, rate
from layercache.presenting.savings import flops_saved

#: A value, its unit, and a line of detail.
_Words = Callable[[state.Snapshot], tuple[str, str, str]]

_WIDTH, _HEIGHT = 120, 28
#: Partitions in the picture of the lag, and the lag that fills its height at least.
_COLUMNS, _FULL_COLUMN = 64, 100


class _Foot(NamedTuple):
    """The small picture below a number: which value it shows, and how."""

    select: Callable[[state.Snapshot], Any]
    draw: Callable[[Any], None]


class Figures:
    """Hit rate, time saved, disagreement, frames a second, lag."""

    def __init__(self) -> None:
        with box("div", "lc-figures"):
            self._tiles = [_Tile(name, words, foot) for name, words, foot in _TILES]

    def update(self, snapshot: state.Snapshot) -> None:
        """Shows the numbers."""
        for tile in self._tiles:
            tile.update(snapshot)


class _Tile:
    def __init__(self, name: str, words: _Words, foot: _Foot) -> None:
        self._words, self._foot = words, foot
        with box("section", "lc-card lc-figure", aria_label=name):
            text(name, "h2")
            with box("p", "lc-number"):
                self._value = text("", "span")
                self._unit = text("", "small")
            self._detail = text("", "p", "lc-hint")
            self._part: Part[Any] = Part(box("div", "lc-foot", aria_hidden="true"), foot.draw)

    def update(self, snapshot: state.Snapshot) -> None:
        self._value.text, self._unit.text, self._detail.text = self._words(snapshot)
        self._part.show(self._foot.select(snapshot))


def path(values: Sequence[float | None], width: int = _WIDTH, height: int = _HEIGHT) -> str:
    """An SVG path through the values, from 0 or less at the bottom to the largest at the top; a gap for each None.

    >>> path([0.0, 2.0, None, 1.0, 1.0], width=40, height=10)
    'M0 10L10 0M30 5L40 5'
    """
    top = max((value for value in values if value is not None), default=0.0) or 1.0
    step = width / max(1, len(values) - 1)
    drawn, is_gap = [], True
    for index, value in enumerate(values):
        if value is not None:
            drawn.append(f"{'M' if is_gap else 'L'}{index * step:.4g} {height - height * max(0.0, value) / top:.3g}")
        is_gap = value is None
    return "".join(drawn)


def _spark(line: Callable[[state.Point], float | None]) -> _Foot:
    return _Foot(lambda snapshot: path([line(point) for point in snapshot.recent.points]), _draw_spark)


def _draw_spark(drawn: str) -> None:
    if drawn:
        with svg("svg", viewBox=f"-1 -2 {_WIDTH + 2} {_HEIGHT + 4}", preserveAspectRatio="none"):
            svg("path", d=drawn)


def _waiting(snapshot: state.Snapshot) -> tuple[int, ...]:
    """Records that wait for workers, by partition."""
    found = (lag.partitions for lag in snapshot.lags if lag.who == "workers")
    return tuple(one.lag for one in next(found, ()))[:_COLUMNS]


def _draw_waiting(lags: tuple[int, ...]) -> None:
    top = max(_FULL_COLUMN, *lags, 0)
    with box("div", "lc-columns"):
        for lag in lags:
            box("i").style(f"height:{lag / top:.1%}")


def _hits(snapshot: state.Snapshot) -> tuple[str, str, str]:
    now = snapshot.now
    return *_split(percent(now.hit_rate)), f"of {plural(now.frames, 'frame')} in the last minute"


def _saved(snapshot: state.Snapshot) -> tuple[str, str, str]:
    now = snapshot.now
    flops = NOTHING if now.flops_saved is None else flops_saved(now.flops_saved, percent)
    return *_split(percent(now.time_saved)), f"of the model's time; of its FLOPs {flops}"


def _disagreement(snapshot: state.Snapshot) -> tuple[str, str, str]:
    seen = snapshot.disagreement
    of = f"{seen.disagreements:,} of {seen.audits:,}; " if seen.audits else ""
    certificate = seen.certificate
    certified = "no exit is open" if certificate is None else f"certified ≤ {percent(certificate.upper_bound, 2)}"
    return *_split(percent(seen.rate, 2)), f"{of}{certified}; {percent(seen.budget)} may differ"


def _pace(snapshot: state.Snapshot) -> tuple[str, str, str]:
    now = snapshot.now
    latency = f"latency {milliseconds(now.latency_p50_ms)} (p50), {milliseconds(now.latency_p99_ms)} (p99)"
    return rate(now.frames_per_s), " /s", latency


def _lag(snapshot: state.Snapshot) -> tuple[str, str, str]:
    groups = {lag.who: lag for lag in snapshot.lags}
    workers, trainer = groups.get("workers"), groups.get("trainer")
    if workers is None:
        return NOTHING, "", "the workers' group is not known yet"
    wait = f"{milliseconds(workers.seconds * 1_000)} of work" if workers.seconds is not None else "waiting for workers"
    behind = f"; trainer {plural(trainer.total, 'record')}" if trainer is not None else ""
    return count(workers.total), " frames" if workers.total != 1 else " frame", wait + behind


def _split(value: str) -> tuple[str, str]:
    return (value[:-1], "%") if value.endswith("%") else (value, "")


_TILES: tuple[tuple[str, _Words, _Foot], ...] = (
    ("Hit rate", _hits, _spark(lambda point: point.hit_rate)),
    ("Time saved", _saved, _spark(lambda point: point.time_saved)),
    ("Audits that differ", _disagreement, _Foot(lambda snapshot: snapshot.disagreement, promise.draw_meter)),
    ("Frames", _pace, _spark(lambda point: point.frames_per_s)),
    ("Lag", _lag, _Foot(_waiting, _draw_waiting)),
)
