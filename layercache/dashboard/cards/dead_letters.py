"""Frames that workers could not answer, with the reason and, if it decodes, the picture."""

from layercache.dashboard import state
from layercache.dashboard.cards import parts
from layercache.dashboard.cards.parts import LocalTime, Part, box, text
from layercache.dashboard.words import plural

_SHOWN = 6


class DeadLetters:
    """The latest dead letters, and how many there were of each reason."""

    def __init__(self) -> None:
        content, _ = parts.card("Dead letters", "lc-half", "Frames that could not be answered, kept as they came.")
        self._part = Part(content, _draw)

    def update(self, snapshot: state.Snapshot) -> None:
        """Shows the latest."""
        self._part.show(snapshot.dead_letters)


def _draw(letters: state.DeadLetters) -> None:
    if not letters.latest:
        parts.empty("None since this dashboard started.")
        return
    with box("p", "lc-reasons"):
        for reason, number in sorted(letters.by_reason.items(), key=lambda item: -item[1]):
            text(f"{reason}: {number:,}", "span", "lc-chip")
    with box("ul", "lc-letters"):
        for letter in letters.latest[:_SHOWN]:
            with box("li"):
                with box("div", "lc-thumb"):
                    parts.picture(letter.picture, letter.no_picture, f"the frame {letter.id}")
                with box("div"):
                    with box("p", "lc-letter-head"):
                        text(letter.reason, "strong")
                        LocalTime(letter.at_ms)
                    text(letter.message, "p")
                    key = f", key {letter.key}" if letter.key is not None else ""
                    text(f"{letter.id}{key}, partition {letter.partition}, offset {letter.offset:,}", "p", "lc-hint")
    hidden = sum(letters.by_reason.values()) - min(len(letters.latest), _SHOWN)
    if hidden > 0:
        text(f"and {plural(hidden, 'earlier one')}: layercache watch --dead-letters", "p", "lc-hint")
