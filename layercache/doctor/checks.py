"""What a check reports, and a time limit for checks."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import msgspec

State = Literal["ok", "warning", "error", "skipped"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line: what the doctor checked, what it found, and what to do."""

    area: str
    check: str
    state: State
    found: str
    fix: str = ""
    """Empty if there is nothing to do."""


class Area:
    """Makes the findings of one area.

    >>> Area("store").error("write", "cannot be written to", "let this user in").state
    'error'
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def ok(self, check: str, found: str) -> Finding:
        """All is well."""
        return Finding(area=self.name, check=check, state="ok", found=found)

    def warning(self, check: str, found: str, fix: str) -> Finding:
        """It works, but a person should look at it."""
        return Finding(area=self.name, check=check, state="warning", found=found, fix=fix)

    def error(self, check: str, found: str, fix: str) -> Finding:
        """It does not work."""
        return Finding(area=self.name, check=check, state="error", found=found, fix=fix)

    def skipped(self, check: str, why: str) -> Finding:
        """The doctor could not check it."""
        return Finding(area=self.name, check=check, state="skipped", found=why)


Checks = Callable[[], Iterable[Finding]]


def findings_within(seconds: float, area: Area, checks: Checks) -> Iterator[Finding]:
    """The findings of ``checks`` as they come; after ``seconds`` in all, an error that says so instead of the rest.

    A check that hangs, in a store that does not answer, say, is left behind. An exception in a check is a finding, too.

    >>> [finding.found for finding in findings_within(0.05, Area("store"), lambda: time.sleep(5) or ())]
    ['no answer within 0.05 s']
    """
    news: queue.SimpleQueue[Finding | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            for finding in checks():
                news.put(finding)
        except Exception as error:  # a check must not end the doctor: its exception is what it found
            news.put(area.error("check", f"{type(error).__name__}: {error}", "this was not foreseen: please report it"))
        finally:
            news.put(None)

    threading.Thread(target=work, name=f"doctor-{area.name}", daemon=True).start()
    deadline = time.monotonic() + seconds
    while True:
        try:
            finding = news.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            yield area.error(
                "time", f"no answer within {seconds:g} s", "can it be reached from here? Is it overloaded?"
            )
            return
        if finding is None:
            return
        yield finding
