"""The latest frames as pictures; a click on one shows its details."""

from typing import Any

from nicegui import ui
from nicegui.element import Element
from nicegui.events import GenericEventArguments

from layercache.dashboard import state
from layercache.dashboard.cards import parts
from layercache.dashboard.cards.parts import LocalTime, Part, box, row, text
from layercache.dashboard.words import answered_by, milliseconds, percent
from layercache.presenting.savings import is_precision

#: Frames on the page, and how long each strip stays at least.
_SHOWN = 24
_STAYS_MS = 1_900


class _Strip(Element, component=parts.STATIC / "frame_strip.js"):
    """Frames side by side, the newest first."""


class Frames:
    """A strip of the latest frames."""

    def __init__(self) -> None:
        content, _ = parts.card("Latest frames", "lc-wide", "Coloured by where they left. Point at them to hold them.")
        with content:
            self._empty = Part(box(), _draw_empty)
            self._strip = _Strip().on("open", self._open)
            self._strip.on("hold", lambda: self._pause(True), args=[])
            self._strip.on("release", lambda: self._pause(False), args=[])
        self._dialog = ui.dialog()
        self._shown: dict[str, state.Frame] = {}
        self._previous: dict[str, state.Frame] = {}
        self._is_paused = False
        self._at_ms = 0

    def update(self, snapshot: state.Snapshot) -> None:
        """Sends the order, and the frames that the browser does not have yet; every two seconds at most."""
        self._empty.show(not snapshot.frames)
        if self._is_paused:
            return
        latest = {f"{frame.partition}-{frame.offset}": frame for frame in snapshot.frames[:_SHOWN]}
        if list(latest) == list(self._shown) or abs(snapshot.at_ms - self._at_ms) < _STAYS_MS:
            return
        cuts = parts.cuts_of(snapshot)
        fresh = [_tile(key, frame, cuts) for key, frame in latest.items() if key not in self._shown]
        self._strip.run_method("show", list(latest), fresh)
        self._previous, self._shown, self._at_ms = self._shown, latest, snapshot.at_ms

    def _pause(self, is_paused: bool) -> None:
        """Stops the strip under the pointer; :meth:`_open` knows the frames before, which it may still show."""
        self._is_paused = is_paused

    def _open(self, event: GenericEventArguments) -> None:
        frame = self._shown.get(str(event.args)) or self._previous.get(str(event.args))
        if frame is None:
            ui.notify("This frame is no longer among the latest.")
            return
        self._dialog.clear()
        with self._dialog, box("div", "lc-card lc-dialog"):
            _draw_details(frame)
            with box("div", "lc-actions"):
                ui.button("Close", on_click=self._dialog.close, color=None).props("flat no-caps")
        self._dialog.open()


def _tile(key: str, frame: state.Frame, cuts: tuple[str, ...]) -> dict[str, Any]:
    """What the browser needs to draw a frame."""
    return {
        "key": key,
        "id": frame.id,
        "name": frame.class_name,
        "confidence": percent(frame.confidence, 0),
        "exit": frame.exit,
        "colour": parts.colour(frame.exit, cuts),
        "mark": _mark(frame),
        "picture": parts.data_url(frame.picture) if frame.picture else None,
        "small": frame.picture is not None and parts.is_small(frame.picture),
        "why": frame.no_picture or "no picture",
        "words": f"{frame.id}: {frame.class_name}, {percent(frame.confidence, 0)} sure, answered by {_by(frame)}",
    }


def _by(frame: state.Frame) -> str:
    is_cut = frame.exit != state.END and not is_precision(frame.exit)
    return f"the {'exit ' if is_cut else ''}{answered_by(frame.exit)}"


def _mark(frame: state.Frame) -> str:
    return "audit" if frame.audited else "overload" if frame.overload else ""


def _draw_details(frame: state.Frame) -> None:
    text(frame.class_name, "h2")
    with box("div", "lc-details"):
        with box("div", "lc-details-picture"):
            parts.picture(frame.picture, frame.no_picture, frame.class_name)
        with box("dl", "lc-list"):
            row("Frame", frame.id)
            row("Key", frame.key if frame.key is not None else "none")
            row("Confidence", percent(frame.confidence))
            row("Answered by", _by(frame))
            row("Audited", "yes: the full model's answer" if frame.audited else "no")
            row("Budget", "overload" if frame.overload else "everyday")
            row("Heads", frame.version or "none in force")
            row("Latency", f"{milliseconds(frame.latency_ms)} from publishing to the answer")
            row("Position", f"partition {frame.partition}, offset {frame.offset:,}")
            with box("div", "lc-row"):
                text("Answered", "dt")
                with box("dd"):
                    LocalTime(frame.at_ms)


def _draw_empty(is_empty: bool) -> None:
    if is_empty:
        parts.empty("No frames yet. Publish some:", "layercache publish photos/")
