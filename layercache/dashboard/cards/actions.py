"""What an operator can do from the page: each action needs a confirmation and takes a reason for the next operator."""

import logging
from typing import Literal

import msgspec
from nicegui import run, ui

from layercache.dashboard.backend import Backend
from layercache.dashboard.cards.parts import box, text
from layercache.early_exit.store.head_store import StoreError

log = logging.getLogger(__name__)

_QUESTIONS = {
    "roll back": "Send workers back to this version? They use it until the trainer publishes the next one.",
    "pin": "Hold workers at this version, whatever the trainer publishes, until it is unpinned?",
    "unpin": "Let workers follow the latest version again?",
    "close": "Keep every exit closed, whatever the trainer publishes? All frames then run the full model.",
}


class Order(msgspec.Struct, frozen=True):
    """One action; ``version`` is its version, if it has one."""

    kind: Literal["roll back", "pin", "unpin", "close"]
    label: str
    version: str | None


class Actions:
    """Buttons, the dialog that asks for confirmation, and the action itself. One for each open page."""

    def __init__(self, source: Backend) -> None:
        self._source = source
        self._dialog = ui.dialog()

    def button(self, order: Order, small: bool = False) -> None:
        """A button that opens the confirmation dialog."""
        button = ui.button(order.label, on_click=lambda: self._ask(order), color=None).props("no-caps flat")
        button.classes("lc-button" + (" lc-small" if small else "") + (" lc-danger" if order.kind == "close" else ""))
        if order.version is not None:
            button.props["aria-label"] = f"{order.label}: {order.version}"

    def _ask(self, order: Order) -> None:
        self._dialog.clear()
        with self._dialog, box("div", "lc-card lc-dialog"):
            text(order.label, "h2")
            text(_QUESTIONS[order.kind], "p")
            if order.version is not None:
                text(order.version, "code")
            reason = ui.input("Reason, for the next person who looks").props("outlined dense autofocus maxlength=300")
            with box("div", "lc-actions"):
                ui.button("Cancel", on_click=self._dialog.close, color=None).props("flat no-caps")
                go = ui.button(order.label, color=None).props("no-caps unelevated")
                go.classes("lc-button lc-primary")
            go.on_click(lambda: self._do(order, reason.value or "", go))
        self._dialog.open()

    async def _do(self, order: Order, reason: str, button: ui.button) -> None:
        """Acts in a thread, since a store in the cloud takes time; the button is disabled meanwhile."""
        button.disable()
        try:
            said = await run.io_bound(_perform, self._source, order, reason)
        except StoreError as error:
            ui.notify(str(error), type="negative", timeout=15_000, close_button="Close")
        except Exception as error:
            log.exception("could not %s", order.kind)
            ui.notify(f"Could not {order.kind}: {error}", type="negative", timeout=15_000, close_button="Close")
        else:
            ui.notify(said, type="positive")
        self._dialog.close()


def _perform(source: Backend, order: Order, reason: str) -> str:
    if order.kind == "roll back":
        return source.roll_back(order.version, reason)
    if order.kind == "pin":
        return source.pin(order.version, reason)
    return source.unpin(reason) if order.kind == "unpin" else source.close_exits(reason)
