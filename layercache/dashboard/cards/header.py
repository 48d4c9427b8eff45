"""The page's top: which model it shows, whether all is well, and what the dashboard cannot reach."""

from collections.abc import Callable

from nicegui import ui
from nicegui.element import Element

from layercache.dashboard import state
from layercache.dashboard.cards.parts import STATIC, LocalTime, Part, box, text
from layercache.dashboard.verdict import judge

_ICONS = {"good": "check_circle", "quiet": "hourglass_empty", "warn": "warning_amber", "bad": "error_outline"}


class ThemeToggle(Element, component=STATIC / "theme_toggle.js"):
    """Switches between light, dark, and the system's setting."""


class Header:
    """Name, verdict, and the buttons at the right."""

    def __init__(self, read_only: bool, pause: Callable[[bool], None]) -> None:
        self._pause = pause
        self._paused = False
        with box("header", "lc-header"):
            with box("div", "lc-brand"):
                with box("div", "lc-logo", aria_hidden="true"):
                    for _ in range(3):
                        box("i")
                with box("div"):
                    text("Layercache", "h1")
                    self._model = Part(box("p", "lc-model"), _draw_model)
            with box("div", "lc-tools"):
                if read_only:
                    text("read-only", "span", "lc-chip", title="Started with --read-only: nothing can be changed here")
                self._button = ui.button(icon="pause", on_click=self._toggle, color=None).props("flat round dense")
                self._button.classes("lc-tool")
                ThemeToggle()
                self._label_button()
        self._box = box("div")
        with self._box:
            self._icon = ui.icon("").props("aria-hidden=true")
            with box("p"):
                # Screen readers read this out when it changes, but not the numbers, which change every second.
                self._headline = text("", "strong", role="status")
                self._detail = text("")

    def update(self, snapshot: state.Snapshot) -> None:
        """Shows the model and the verdict."""
        self._model.show((snapshot.model_name, snapshot.model, snapshot.brokers))
        verdict = judge(snapshot)
        self._box.classes(replace=f"lc-verdict-box lc-{verdict.level}")
        self._icon.name = _ICONS[verdict.level]
        self._headline.text, self._detail.text = verdict.headline, verdict.detail

    def _toggle(self) -> None:
        self._paused = not self._paused
        self._pause(self._paused)
        self._label_button()

    def _label_button(self) -> None:
        label = "Go on" if self._paused else "Hold still"
        self._button.props(f'icon={"play_arrow" if self._paused else "pause"} aria-label="{label}" title="{label}"')


class Banner:
    """What the dashboard cannot reach right now, and what to do about it."""

    def __init__(self) -> None:
        self._part = Part(box("div", "lc-banners"), _draw_problems)

    def update(self, snapshot: state.Snapshot) -> None:
        """Shows the problems."""
        self._part.show(snapshot.problems)


def _draw_model(names: tuple[str | None, str | None, str]) -> None:
    name, fingerprint, brokers = names
    text(name or "model not known yet", "strong")
    if fingerprint:
        text(fingerprint[:12], "code", title=f"The model's fingerprint: {fingerprint}")
    if brokers:
        text(f"on {brokers}")


def _draw_problems(problems: tuple[state.Problem, ...]) -> None:
    for problem in problems:
        with box("div", "lc-banner", role="alert"):
            text(problem.where, "strong")
            text(problem.message, "span")
            with box("span", "lc-since"):
                text("since")
                LocalTime(problem.since_ms)
