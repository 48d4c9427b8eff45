"""The dashboard's page: built once for each viewer, then updated once a second."""

import logging

from nicegui import ui

from layercache.dashboard import state
from layercache.dashboard.backend import Backend
from layercache.dashboard.cards import (
    dead_letters,
    figures,
    flow,
    frames,
    header,
    promise,
    series,
    versions,
    watching,
)
from layercache.dashboard.cards.actions import Actions
from layercache.dashboard.cards.parts import STATIC, Card, Part, box, text

log = logging.getLogger(__name__)

FAVICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><g fill="#2f6fde"><rect x="4" y="5" width="10"
height="6" rx="2" opacity=".55"/><rect x="4" y="13" width="17" height="6" rx="2" opacity=".8"/><rect x="4" y="21"
width="24" height="6" rx="2"/></g></svg>"""

_EVERY_S = 1.0
_STYLE = (STATIC / "theme.css").read_text()


def build(source: Backend, read_only: bool) -> None:
    """Builds the page for one viewer. All viewers share ``source``, which gathers everything once."""
    ui.add_css(_STYLE)
    ui.colors(primary="#2f6fde")
    actions = None if read_only else Actions(source)
    view = _View(source)
    with box("main", "lc-page"):
        view.cards.append(header.Header(read_only, view.pause))
        view.cards += [
            header.Banner(),
            figures.Figures(),
            frames.Frames(),
            flow.Flow(),
            promise.Promise(),
            series.Series(),
        ]
        view.cards += [versions.Versions(actions), watching.Classes(), watching.Lags(), watching.Alarms()]
        view.cards += [dead_letters.DeadLetters(), watching.Workers(), _Footer()]
    view.update()
    view.timer = ui.timer(_EVERY_S, view.update)


class _View:
    """One viewer's cards. It ends with the viewer: NiceGUI stops the timer when the page is closed."""

    def __init__(self, source: Backend) -> None:
        self._source = source
        self._failed = False
        self.cards: list[Card] = []
        self.timer: ui.timer | None = None

    def update(self) -> None:
        """Updates every card; if one fails, the others go on, and the log says so once."""
        snapshot = self._source.snapshot()
        for card in self.cards:
            try:
                card.update(snapshot)
            except Exception:
                if not self._failed:
                    log.exception("a card of the dashboard could not be drawn: %s", type(card).__name__)
                self._failed = True

    def pause(self, paused: bool) -> None:
        """Pauses the page's updates, or resumes them."""
        if self.timer is not None:
            self.timer.active = not paused


class _Footer:
    """What the numbers leave out, and where they come from."""

    def __init__(self) -> None:
        self._part = Part(box("footer", "lc-footer"), _draw_footer)

    def update(self, snapshot: state.Snapshot) -> None:
        """Shows the notes."""
        self._part.show((snapshot.notes, snapshot.heads.store, snapshot.frames_topic))


def _draw_footer(shown: tuple[tuple[str, ...], str, str]) -> None:
    notes, store, topic = shown
    for note in notes:
        text(note, "p")
    with box("p"):
        text("Frames from")
        text(topic or "–", "code")
        text("and heads from")
        text(store or "–", "code")
