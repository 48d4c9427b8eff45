"""Takes the pictures of the dashboard in ``docs/images`` from a demo that really runs: ``make screenshots``.

Three pictures at the end of the stream (light, dark, on a phone), and a moving one of the whole stream. It takes about
five minutes, and a Chromium (see :mod:`tests.support.browser`).
"""

import argparse
import io
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import PIL.Image
from playwright.sync_api import Browser, Page, ViewportSize

from tests.support.browser import browser

_IMAGES = Path(__file__).with_name("images")
_DESKTOP, _PHONE = (1440, 1000), (390, 1200)
#: Of the moving picture: the part of the page that it shows, its width in pixels, and how it passes.
_PART, _WIDTH, _EVERY_S, _SHOWN_MS, _LAST_MS = (1240, 1140), 930, 7.0, 450, 4_000
#: Before the end of the stream; the last pictures take about as long.
_STILLS_S = 20.0
_PATIENCE_S = 120.0


def main() -> None:
    """Runs the demo and leaves the pictures."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--frames", type=int, default=10_000, help="how many the demo streams (default: %(default)s)")
    options.add_argument("--rate", type=float, default=40.0, help="how many in a second (default: %(default)s)")
    options.add_argument("--out", type=Path, default=_IMAGES, help="folder of the pictures (default: %(default)s)")
    chosen = options.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    with running_demo(chosen.frames, chosen.rate) as address, browser() as opened:
        moving = take(opened, address, chosen.out, chosen.frames / chosen.rate)
    save_moving(moving, chosen.out / "dashboard.webp")
    for path in sorted(chosen.out.glob("dashboard*")):
        print(f"{path}: {path.stat().st_size / 1_000:,.0f} kB")


@contextmanager
def running_demo(frames: int, rate: float) -> Iterator[str]:
    """The address of the dashboard of a demo that streams; it is stopped at the end."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-um", "layercache", "demo", "--no-browser", "--out", f"{folder}/report"]
        command += ["--frames", str(frames), "--rate", str(rate)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
            assert demo.stdout is not None
            said: list[str] = []
            try:
                for line in demo.stdout:
                    said.append(line)
                    if found := re.match(r"dashboard: (http://\S+)", line):
                        yield found[1]
                        break
                else:
                    raise RuntimeError(f"the demo showed no dashboard: {''.join(said)}")
            finally:
                demo.terminate()


def take(opened: Browser, address: str, out: Path, stream_s: float) -> list[PIL.Image.Image]:
    """Looks at the page while the stream lasts; returns the moving picture's frames."""
    with page(opened, address, _PART) as watched:
        watched.wait_for_selector(".lc-frame", timeout=1_000 * _PATIENCE_S)
        until = time.monotonic() + stream_s - _STILLS_S
        moving: list[PIL.Image.Image] = []
        while time.monotonic() < until:
            moving.append(_picture(watched))
            watched.wait_for_timeout(1_000 * _EVERY_S)
    for name, size, options in (
        ("light", _DESKTOP, {}),
        ("dark", _DESKTOP, {"color_scheme": "dark"}),
        ("phone", _PHONE, {"has_touch": True, "is_mobile": True, "device_scale_factor": 2}),
    ):
        with page(opened, address, size, **options) as shown:
            shown.wait_for_selector(".lc-frame")
            shown.wait_for_selector(".lc-chart svg path", state="attached")
            shown.add_style_tag(content=".lc-footer { display: none }")  # it names a folder of this machine
            shown.wait_for_timeout(2_500)  # charts and frames have come in; nothing on the page says so
            shown.screenshot(path=out / f"dashboard-{name}.png", full_page=name != "phone")
    return moving


@contextmanager
def page(opened: Browser, address: str, size: tuple[int, int], **options: Any) -> Iterator[Page]:
    """The dashboard in a window of that size."""
    viewport = ViewportSize(width=size[0], height=size[1])
    context = opened.new_context(viewport=viewport, locale="en-GB", timezone_id="UTC", **options)
    try:
        shown = context.new_page()
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                shown.goto(address)
                break
            except Exception:  # it is not there yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        yield shown
    finally:
        context.close()


def _picture(shown: Page) -> PIL.Image.Image:
    taken = PIL.Image.open(io.BytesIO(shown.screenshot()))
    height = round(taken.height * _WIDTH / taken.width)
    return taken.convert("RGB").resize((_WIDTH, height), PIL.Image.Resampling.LANCZOS)


def save_moving(pictures: list[PIL.Image.Image], path: Path) -> None:
    """An animated WebP that rests on its last picture."""
    durations = [_SHOWN_MS] * (len(pictures) - 1) + [_LAST_MS]
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=58, method=6,
        minimize_size=True, allow_mixed=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
