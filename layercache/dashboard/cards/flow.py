"""Where frames leave, as a staircase: a bar's height is its share of the frames, its length the time they took."""

from collections.abc import Sequence
from itertools import accumulate

import msgspec

from layercache.dashboard import state
from layercache.dashboard.cards import parts
from layercache.dashboard.cards.parts import Part, box, svg, text
from layercache.dashboard.words import answered_by, percent, plural

#: The least distance of two labels, as a share of the picture's height.
_APART = 0.115
#: A segment narrower than this share of the picture has no room for how many frames go on: the model in int8 takes a
#: fifth of the model's time, and an exit before it a part of that.
_ROOM = 0.15


class Step(msgspec.Struct, frozen=True):
    """The frames that left at one exit."""

    cut: str
    share: float
    """Of all frames."""
    time: float
    """Spent on each of them, as a share of the plain model's."""
    length: float
    """The bar's length, as a share of the picture's width."""
    top: float
    """The bar's upper edge, as a share of the picture's height, like the next field."""
    label: float
    """The middle of its label."""

    @property
    def middle(self) -> float:
        """The middle of the bar."""
        return self.top + self.share / 2


class Mark(msgspec.Struct, frozen=True):
    """A cut on the axis."""

    cut: str
    at: float
    """As a share of the picture's width."""
    width: float
    """The width of the segment that ends here."""
    passed: float
    """Share of all frames that pass it."""


class Staircase(msgspec.Struct, frozen=True):
    """The picture as numbers."""

    steps: tuple[Step, ...] = ()
    marks: tuple[Mark, ...] = ()
    saved: float = 0.0
    """Saved time, as a share of the plain model's."""
    frames: int = 0


def staircase(flow: state.Flow) -> Staircase:
    """The flow as a picture; without frames an empty one.

    >>> stairs = staircase(state.Flow(frames=4, segments=(
    ...     state.Segment(cut="half", time_share=0.5, left=3, open=True),
    ...     state.Segment(cut="full", time_share=0.5, left=1, open=True))))
    >>> [(step.cut, step.share, step.length, step.top) for step in stairs.steps], stairs.saved
    ([('half', 0.75, 0.5, 0.0), ('full', 0.25, 1.0, 0.75)], 0.375)
    """
    if not flow.frames or not flow.segments:
        return Staircase()
    times = list(accumulate(segment.time_share for segment in flow.segments))
    width = max(times[-1], 1.0)
    shares = [segment.left / flow.frames for segment in flow.segments]
    shown = [index for index, segment in enumerate(flow.segments) if segment.open or segment.left]
    tops = dict(zip(shown, accumulate((shares[index] for index in shown), initial=0.0), strict=False))
    labels = spread([tops[index] + shares[index] / 2 for index in shown], _APART)
    steps = tuple(
        Step(flow.segments[index].cut, shares[index], times[index], times[index] / width, tops[index], label)
        for index, label in zip(shown, labels, strict=True)
    )
    left = list(accumulate(shares))
    marks = tuple(
        Mark(segment.cut, times[index] / width, segment.time_share / width, max(0.0, 1 - left[index]))
        for index, segment in enumerate(flow.segments)
    )
    return Staircase(steps, marks, 1 - sum(step.share * step.time for step in steps), flow.frames)


def spread(wanted: Sequence[float], apart: float) -> list[float]:
    """Places within [0, 1], in the order of ``wanted`` and near to it, at least ``apart`` from each other.

    >>> [round(place, 2) for place in spread([0.1, 0.12, 0.99], 0.1)]
    [0.1, 0.2, 0.95]
    """
    apart = min(apart, 1 / max(1, len(wanted)))
    places: list[float] = []
    for place in wanted:
        places.append(max(place, apart / 2, places[-1] + apart if places else 0.0))
    ceiling = 1 - apart / 2
    for index in reversed(range(len(places))):
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - apart
    return places


class Flow:
    """The model's segments and the frames' way through them."""

    def __init__(self) -> None:
        content, saved = parts.card(
            "Where frames leave",
            "lc-flow-card",
            "Height: share of frames. Length: the time that each took, of the model's.",
        )
        self._saved = Part(saved, _draw_saved)
        self._part = Part(content, _draw)

    def update(self, snapshot: state.Snapshot) -> None:
        """Shows the latest frames' way."""
        stairs = staircase(snapshot.flow)
        self._saved.show(stairs.saved if stairs.steps else None)
        self._part.show(stairs)


def _draw(stairs: Staircase) -> None:
    if not stairs.steps:
        parts.empty("Nothing has been answered yet.")
        return
    cuts = tuple(mark.cut for mark in stairs.marks)
    said = "; ".join(f"{answered_by(step.cut)} {percent(step.share)}" for step in stairs.steps)
    with box("div", "lc-flow", role="group", aria_label=f"Shares of frames by exit: {said}"):
        with box("div", "lc-stairs"):
            for mark in stairs.marks:
                box("i", "lc-guide", aria_hidden="true").style(f"left:{mark.at:.2%}")
            for step in stairs.steps:
                place = f"top:{step.top:.2%};height:{step.share:.2%};width:{step.length:.2%}"
                box("div", "lc-step").style(f"{place};--exit:{parts.colour(step.cut, cuts)}")
            with svg("svg", viewBox="0 0 1 1", preserveAspectRatio="none", **{"aria-hidden": "true"}):
                for step in stairs.steps:
                    svg("path", d=f"M{step.length:.4f} {step.middle:.4f}L1 {step.label:.4f}")
        with box("div", "lc-labels"):
            for step in stairs.steps:
                with box("p", "lc-label").style(f"top:{step.label:.2%};--exit:{parts.colour(step.cut, cuts)}"):
                    box("i", "lc-dot", aria_hidden="true")
                    text(answered_by(step.cut), "span", "lc-cut", title=step.cut)
                    text(percent(step.share), "strong")
        with box("div", "lc-axis"):
            for mark in stairs.marks:
                with box("div", "lc-mark" if mark.width >= _ROOM else "lc-mark lc-narrow").style(
                    f"left:{mark.at - mark.width:.2%};width:{mark.width:.2%}"
                ):
                    text("end" if mark.cut == state.END else mark.cut, "span", "lc-cut", title=mark.cut)
                    if mark.cut != state.END and mark.width >= _ROOM:
                        text(f"{percent(mark.passed, 0)} go on", "small")
    text(f"The last {plural(stairs.frames, 'answer')}.", "p", "lc-hint")


def _draw_saved(share: float | None) -> None:
    if share is not None:
        with box("p", "lc-saved"):
            text(percent(max(0.0, share)), "strong")
            text("of the time saved")
