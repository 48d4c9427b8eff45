"""What all cards are made of. Text always goes into the page as text: no browser reads a user's text as HTML."""

import functools
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement

from layercache.dashboard import state
from layercache.presenting.savings import is_precision

T = TypeVar("T")
STATIC = Path(__file__).parents[1] / "static"


class Card(Protocol):
    """A part of the page."""

    def update(self, snapshot: state.Snapshot) -> None:
        """Shows ``snapshot``; sends the browser nothing if this card's part has not changed."""


class LocalTime(Element, component=STATIC / "local_time.js"):
    """A moment, written in the viewer's time zone."""

    def __init__(self, ms: int) -> None:
        super().__init__()
        self._props["ms"] = ms


class Part(Generic[T]):
    """An element whose content depends on one value, and is redrawn when that value changes."""

    def __init__(self, place: Element, draw: Callable[[T], None]) -> None:
        self._place = place
        self._draw = draw
        self._shown: list[T] = []

    def show(self, value: T) -> None:
        """Draws ``value``, unless it is shown already."""
        if self._shown and (value is self._shown[0] or value == self._shown[0]):
            return
        self._shown = [value]
        self._place.clear()
        with self._place:
            self._draw(value)


def box(tag: str = "div", classes: str = "", **attributes: str) -> Element:
    """A container element; attributes have underscores for dashes, and ``classes`` is the attribute ``class``."""
    element = Element(tag).classes(classes)
    return _with(element, attributes)


def text(words: str, tag: str = "span", classes: str = "", **attributes: str) -> TextElement:
    """Text, unchanged."""
    element = TextElement(tag=tag, text=words)
    element.classes(classes)
    return _with(element, attributes)


def svg(tag: str, **attributes: str) -> Element:
    """A part of a drawing, with attributes as SVG writes them."""
    element = Element(tag)
    for name, value in attributes.items():
        element._props[name] = value
    return element


def card(title: str, classes: str = "", hint: str = "") -> tuple[Element, Element]:
    """A titled card: the element for its content, and the one next to its title for controls."""
    with box("section", f"lc-card {classes}", aria_label=title):
        with box("div", "lc-card-head"):
            with box("div"):
                text(title, "h2")
                if hint:
                    text(hint, "p", "lc-hint")
            controls = box("div", "lc-controls")
        content = box("div", "lc-card-body")
    return content, controls


def empty(words: str, command: str = "") -> None:
    """Says why a card is empty, and the command that fills it."""
    with box("p", "lc-empty"):
        text(words)
        if command:
            text(command, "code")


def row(name: str, value: str, classes: str = "") -> None:
    """A name and its value, within a ``dl``."""
    with box("div", f"lc-row {classes}"):
        text(name, "dt")
        text(value, "dd")


def picture(shown: state.Picture | None, why: str, alt: str) -> None:
    """A picture, or why there is none."""
    if shown is None:
        text(why or "no picture", "span", "lc-frame-none")
        return
    image = box("img", "lc-pixels" if is_small(shown) else "", alt=alt)
    image._props["src"] = data_url(shown)


def is_small(shown: state.Picture) -> bool:
    """Whether it is so small that the page should show its pixels unsmoothed."""
    return max(shown.width, shown.height) <= 64


@functools.lru_cache(maxsize=512)
def data_url(shown: state.Picture) -> str:
    """The picture as a ``data:`` URL: it needs no request of its own, which could come too late."""
    return f"data:{shown.content_type};base64,{b64encode(shown.data).decode()}"


def colour(exit_: str, cuts: tuple[str, ...]) -> str:
    """An exit's colour, by its place among the model's ``cuts``, open or not.

    >>> colour("layer2", ("layer1", "layer2", "full")), colour("full", ("layer1", "full")), colour("other", ("full",))
    ('var(--exit-2)', 'var(--full)', 'var(--exit-8)')
    >>> colour("int8", ("layer1", "int8", "full"))
    'var(--precision)'
    """
    if exit_ == state.END:
        return "var(--full)"
    if is_precision(exit_):
        return "var(--precision)"
    return f"var(--exit-{cuts.index(exit_) % 8 + 1 if exit_ in cuts else 8})"


def cuts_of(snapshot: state.Snapshot) -> tuple[str, ...]:
    """The model's cuts in order, as far as they are known."""
    return tuple(segment.cut for segment in snapshot.flow.segments)


E_ = TypeVar("E_", bound=Element)


def _with(element: E_, attributes: dict[str, str]) -> E_:
    for name, value in attributes.items():
        element._props[name.replace("_", "-")] = value
    return element
