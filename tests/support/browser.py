"""A browser without a window, that writes down whatever a page does wrong."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Response, sync_playwright

from tests.support.require import missing

#: A container's root may not use the sandbox; the others keep the browser from calling home and from filling the disk.
_ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip

#: What Chromium ends requests with when the machine's interfaces change: other tests make and remove Docker's networks
#: meanwhile. A page that lacks anything by it fails by what it shows.
_NETWORK_CHANGED = "net::ERR_NETWORK_CHANGED"


@contextmanager
def browser() -> Iterator[Browser]:
    """The Chromium that is installed: Playwright's own cannot be fetched everywhere."""
    names = (
        "chromium-headless-shell",
        "chromium",
        "chromium-browser",
    )  # the first has no windows to draw, and is quicker
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        missing("browser", "install Chromium (Debian: apt-get install chromium), or name one with CHROMIUM")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=list(_ARGUMENTS))
        try:
            yield launched
        finally:
            launched.close()


class Watched:
    """A page, and what went wrong on it: errors and warnings in the console, failed requests, requests to elsewhere."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.troubles: list[str] = []
        self._host = urlsplit(address).netloc
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.troubles.append(f"error in the page: {error}"))
        page.on("request", lambda request: self._on_request(request.url))
        page.on("response", self._on_response)

    def _on_console(self, message: ConsoleMessage) -> None:
        if _NETWORK_CHANGED in message.text:
            return
        if message.type in ("error", "warning"):
            self.troubles.append(f"{message.type} in the console: {message.text}")

    def _on_request(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob") and parts.netloc != self._host:
            self.troubles.append(f"request to elsewhere: {url}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 400:
            self.troubles.append(f"{response.status} for {response.url}")


@contextmanager
def watched(browser: Browser, address: str, **context: Any) -> Iterator[Page]:
    """``address`` opened in a context of its own; fails at the end where anything went wrong meanwhile."""
    opened = browser.new_context(**({"viewport": {"width": 1440, "height": 900}} | context))
    try:
        page = opened.new_page()
        watch = Watched(page, address)
        _go(page, address)
        yield page
        assert not watch.troubles, "\n".join(watch.troubles)
    finally:
        opened.close()


def _go(page: Page, address: str, tries: int = 5) -> None:
    for rest in reversed(range(tries)):
        try:
            page.goto(address)
            return
        except Error as error:
            if _NETWORK_CHANGED not in str(error) or not rest:
                raise
