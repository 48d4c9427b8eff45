"""The page in a browser: it loads, follows the state, does what its buttons say, and never takes text for HTML."""

import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from msgspec.structs import replace as _replace
from nicegui import Client, ui
from playwright.sync_api import Browser, Page, expect

from layercache.dashboard import app, heads_state, page, state
from layercache.dashboard.board import Board
from layercache.dashboard.heads import HeadsView, ModelChoice
from layercache.early_exit.store.head_store import HeadStore
from layercache.schemas.settings import Store
from testbed.waiting import wait_until
from tests.support import manifests
from tests.support.browser import browser, watched
from tests.support.dashboard_state import sample

pytestmark = pytest.mark.process

_EVIL = '<img src=x onerror="window.broken = true">'
_FOLDER = "tiny-" + "ab" * 6
_LONG = "a-very-long-name-without-any-place-to-break-it-" * 4


class Stage:
    """A source whose state the test sets, with the real heads of a store where it has one."""

    def __init__(self) -> None:
        self.shown = sample()
        self.view: HeadsView | None = None
        self.asked = 0

    def snapshot(self) -> state.Snapshot:
        """What is set, at a later moment each time."""
        self.asked += 1
        heads = self.view.seen.heads if self.view else self.shown.heads
        return _replace(self.shown, heads=heads, at_ms=self.shown.at_ms + 10_000 * self.asked)

    def roll_back(self, version: str | None = None, reason: str = "") -> str:
        """On the store."""
        return self._heads.roll_back(version, reason)

    def pin(self, version: str | None = None, reason: str = "") -> str:
        """On the store."""
        return self._heads.pin(version, reason)

    def unpin(self, reason: str = "") -> str:
        """On the store."""
        return self._heads.unpin(reason)

    def close_exits(self, reason: str = "") -> str:
        """On the store."""
        return self._heads.close_exits(reason)

    @property
    def _heads(self) -> HeadsView:
        assert self.view is not None
        return self.view


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Stage, str]]:
    """A stage, and where it is to be seen; at /read-only without buttons, and at /brief for those who go at once."""
    stage, stop = Stage(), threading.Event()
    addresses: list[str] = []
    with app.listen("127.0.0.1", 0) as listener:
        server = app.server(stage, listener, False, addresses.append, stop)
        ui.page("/read-only")(lambda: page.build(stage, read_only=True))
        ui.page("/brief", reconnect_timeout=0.1)(lambda: page.build(stage, read_only=False))
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
        thread.start()
        try:
            wait_until(lambda: bool(addresses), "the page is served")
            yield stage, addresses[0]
        finally:
            stop.set()
            thread.join(20.0)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as launched:
        yield launched


@pytest.fixture
def stage(served: tuple[Stage, str]) -> Iterator[Stage]:
    served[0].shown = sample()
    yield served[0]
    served[0].view = None


@pytest.fixture
def address(served: tuple[Stage, str]) -> str:
    return served[1]


@pytest.fixture
def shown(stage: Stage, chromium: Browser, address: str) -> Iterator[Page]:
    """The page, opened and connected."""
    with watched(chromium, address) as opened:
        expect(opened.locator(".lc-frame").first).to_be_visible()
        yield opened


def _figure(shown: Page, name: str) -> str:
    return shown.get_by_role("region", name=name, exact=True).inner_text()


def test_everything_of_the_state_is_on_the_page(shown: Page) -> None:
    assert shown.title() == "Layercache"
    headings = shown.get_by_role("heading", level=2).all_inner_texts()
    assert {"Latest frames", "Where frames leave", "The promise", "Over time", "Versions of heads"} <= set(headings)
    assert {"Disagreement by class", "Lag by partition", "Drift alarms", "Dead letters", "Workers"} <= set(headings)
    assert "74.1%" in _figure(shown, "Hit rate").replace("\n", "")
    assert "certified ≤ 0.81%" in _figure(shown, "Audits that differ")
    expect(shown.locator(".lc-frame")).to_have_count(24)
    expect(shown.locator(".lc-frame img")).to_have_count(21)
    expect(shown.locator(".lc-step")).to_have_count(4)
    expect(shown.locator(".lc-chart svg")).to_have_count(4)
    meter = shown.get_by_role("meter", name="Audited disagreement", exact=True)
    assert meter.get_attribute("aria-valuenow") == "0.004153"
    assert "opens layer3; layer2 from 0.9312 to 0.8874" in _figure(shown, "Versions of heads")


def test_a_frame_tells_everything_about_itself_when_clicked(shown: Page) -> None:
    shown.locator(".lc-frame").first.click()
    details = shown.get_by_role("dialog")
    expect(details).to_contain_text("partition 0, offset 4,250")
    expect(details).to_contain_text("20260101T001200-0005")


def test_the_page_follows_the_state_without_a_reload(shown: Page, stage: Stage) -> None:
    now = state.Now(frames=600, frames_per_s=10.0, hit_rate=0.805, flops_saved=0.5, time_saved=0.4)
    newest = _replace(stage.shown.frames[0], id="just-now.png", offset=9_999, class_name="boot")
    stage.shown = _replace(stage.shown, now=now, frames=(newest, *stage.shown.frames))
    expect(shown.get_by_role("region", name="Hit rate")).to_contain_text("80.5")
    expect(shown.locator(".lc-frame").first).to_have_attribute("title", "just-now.png")
    expect(shown.locator(".lc-frame")).to_have_count(24)


def test_a_page_that_holds_still_goes_on_when_told(shown: Page, stage: Stage) -> None:
    shown.get_by_role("button", name="Hold still").click()
    expect(shown.get_by_role("button", name="Go on")).to_be_visible()
    held = stage.asked
    stage.shown = _replace(stage.shown, now=state.Now(frames=1, hit_rate=0.111))
    shown.wait_for_timeout(2_500)  # two turns of the page's clock, in which nothing may happen
    expect(shown.get_by_role("region", name="Hit rate")).not_to_contain_text("11.1")
    shown.get_by_role("button", name="Go on").click()
    expect(shown.get_by_role("region", name="Hit rate")).to_contain_text("11.1")
    assert stage.asked > held


def test_a_problem_stands_on_top_until_it_is_gone(shown: Page, stage: Stage) -> None:
    problem = state.Problem(where="broker", message="no broker at localhost:9092; is it running?", since_ms=1_000)
    stage.shown = _replace(stage.shown, problems=(problem,))
    expect(shown.get_by_role("alert")).to_contain_text("no broker at localhost:9092")
    expect(shown.get_by_role("status")).to_contain_text("The broker cannot be reached")
    stage.shown = _replace(stage.shown, problems=(), alarms=())
    expect(shown.get_by_role("alert")).to_have_count(0)
    expect(shown.get_by_role("status")).to_contain_text("All is well")


def test_before_the_first_frame_the_page_says_what_to_do(stage: Stage, chromium: Browser, address: str) -> None:
    stage.shown = state.Snapshot(at_ms=1_000)
    with watched(chromium, address) as opened:
        expect(opened.get_by_role("region", name="Latest frames")).to_contain_text("layercache publish photos/")
        expect(opened.get_by_role("region", name="Versions of heads")).to_contain_text("layercache trainer")
        expect(opened.get_by_role("status")).to_contain_text("No frames yet")


@pytest.fixture
def store(stage: Stage, tmp_path: Path) -> HeadStore:
    """A store with three versions, which the page shows and changes."""
    store = HeadStore(f"file://{tmp_path}", _FOLDER)
    for number in (1, 2, 3):
        store.publish(manifests.manifest(number, number - 1 or None), manifests.tensors(number))
    stage.view = HeadsView(Store(url=f"file://{tmp_path}"), ModelChoice(), Board())
    stage.view.look()
    return store


def _confirm(shown: Page, label: str, reason: str) -> None:
    dialog = shown.get_by_role("dialog")
    dialog.get_by_label("Reason, for the next person who looks").fill(reason)
    dialog.get_by_role("button", name=label).click()
    expect(dialog).to_have_count(0)


def test_rolling_back_asks_first_and_then_changes_what_workers_use(
    store: HeadStore, chromium: Browser, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with watched(chromium, address) as shown:
        shown.get_by_role("button", name="Roll back: v0002").click()
        shown.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        expect(shown.get_by_role("dialog")).to_have_count(0)
        assert store.latest() == "v0003"
        shown.get_by_role("button", name="Roll back: v0002").click()
        _confirm(shown, "Roll back", "odd answers from gate-1")
        expect(shown.get_by_role("row", name=re.compile("^v0002"))).to_contain_text("live")
        expect(shown.get_by_text("workers use v0002").first).to_be_visible()
    assert store.latest() == "v0002"
    assert "odd answers from gate-1" in caplog.text


def test_exits_can_be_closed_opened_and_a_version_held(store: HeadStore, chromium: Browser, address: str) -> None:
    with watched(chromium, address) as shown:
        shown.get_by_role("button", name="Close all exits").click()
        _confirm(shown, "Close all exits", "moving the cameras")
        expect(shown.get_by_role("region", name="Versions of heads")).to_contain_text("moving the cameras")
        assert store.live().closed
        shown.get_by_role("button", name="Open exits again").click()
        _confirm(shown, "Open exits again", "")
        expect(shown.get_by_role("button", name="Close all exits")).to_be_visible()
        shown.get_by_role("button", name="Pin: v0001").click()
        _confirm(shown, "Pin", "release freeze")
        expect(shown.get_by_role("row", name=re.compile("^v0001"))).to_contain_text("pinned")
    assert store.live().version == "v0001"


def test_what_the_store_refuses_is_said_on_the_page(
    store: HeadStore, chromium: Browser, address: str, tmp_path: Path
) -> None:
    with watched(chromium, address) as shown:
        button = shown.get_by_role("button", name="Pin: v0001")
        button.click()
        (tmp_path / _FOLDER / "v0001" / "manifest.json").unlink()
        _confirm(shown, "Pin", "")
        expect(shown.get_by_text(re.compile("has no version v0001"))).to_be_visible()
    assert store.live().version == "v0003"


def test_a_read_only_page_has_nothing_that_changes_anything(store: HeadStore, chromium: Browser, address: str) -> None:
    with watched(chromium, f"{address}/read-only") as shown:
        expect(shown.get_by_text("read-only", exact=True)).to_be_visible()
        expect(shown.get_by_role("row", name=re.compile("^v0003"))).to_contain_text("live")
        for name in ("Roll back", "Pin", "Unpin", "Close all exits"):
            expect(shown.get_by_role("button", name=re.compile(name))).to_have_count(0)
    assert store.latest() == "v0003"


def test_colours_follow_the_system_until_they_are_chosen(stage: Stage, chromium: Browser, address: str) -> None:
    with watched(chromium, address, color_scheme="dark") as shown:
        colour = "getComputedStyle(document.body).backgroundColor"
        expect(shown.locator("body.body--dark")).to_have_count(1)
        assert shown.evaluate(colour) == "rgb(13, 18, 24)"
        shown.get_by_role("button", name="Colours: system").click()
        expect(shown.locator("body.body--dark")).to_have_count(0)
        assert shown.evaluate(colour) == "rgb(244, 246, 249)"
        shown.reload()
        expect(shown.get_by_role("button", name="Colours: light")).to_be_visible()
        expect(shown.locator("body.body--light")).to_have_count(1)


def test_a_phone_needs_no_sideways_scrolling(stage: Stage, chromium: Browser, address: str) -> None:
    long = _replace(stage.shown.frames[0], id=_LONG, class_name=_LONG, offset=1, picture=None, no_picture=_LONG)
    stage.shown = _replace(
        stage.shown,
        model_name=_LONG,
        frames=(long, *stage.shown.frames),
        classes=(state.ClassDisagreement(name=_LONG, audits=9, disagreements=1, upper_bound=0.3),),
        problems=(state.Problem(where="store", message=_LONG, since_ms=1_000),),
        notes=(_LONG,),
    )
    with watched(chromium, address, viewport={"width": 390, "height": 844}, has_touch=True) as shown:
        expect(shown.locator(".lc-frame").first).to_be_visible()
        assert shown.evaluate("document.documentElement.scrollWidth") == 390
        right = "found => Math.max(...found.map(one => one.getBoundingClientRect().right))"
        assert shown.eval_on_selector_all(".lc-page > *, .lc-card-body > *, .lc-frame", right) <= 390


def test_text_of_users_is_never_html(stage: Stage, chromium: Browser, address: str) -> None:
    snapshot = stage.shown
    frame = _replace(snapshot.frames[0], id=_EVIL, key=_EVIL, class_name=_EVIL, exit=_EVIL, offset=1)
    unseen = _replace(frame, picture=None, no_picture=_EVIL, offset=2)
    changed = tuple(_replace(one, changes=heads_state.Changes(summary=_EVIL)) for one in snapshot.heads.versions)
    heads = _replace(snapshot.heads, sentence=_EVIL, pinned=True, pin_reason=_EVIL, store=_EVIL, versions=changed)
    letter = _replace(snapshot.dead_letters.latest[0], id=_EVIL, key=_EVIL, reason=_EVIL, message=_EVIL)
    first, *others = snapshot.flow.segments
    stage.shown = _replace(
        snapshot,
        model_name=_EVIL,
        brokers=_EVIL,
        frames_topic=_EVIL,
        frames=(frame, unseen, *snapshot.frames),
        heads=heads,
        flow=_replace(snapshot.flow, segments=(_replace(first, cut=_EVIL), *others)),
        classes=(state.ClassDisagreement(name=_EVIL, audits=9, disagreements=1, upper_bound=0.3),),
        alarms=(heads_state.Alarm(kind="unsafe", where=_EVIL, at_ms=1, active=True, message=_EVIL),),
        dead_letters=state.DeadLetters(latest=(letter,), by_reason={_EVIL: 1}),
        workers=(_replace(snapshot.workers[0], target=_EVIL, version=_EVIL),),
        problems=(state.Problem(where="store", message=_EVIL, since_ms=1),),
        notes=(_EVIL,),
    )
    with watched(chromium, address) as shown:
        shown.locator(".lc-frame").first.click()
        expect(shown.get_by_role("dialog")).to_contain_text(_EVIL)
        assert shown.evaluate("window.broken === undefined && document.querySelector('img[src=x]') === null")
        assert shown.locator(".lc-page").inner_text().count(_EVIL) >= 18


def test_nothing_is_left_of_a_page_that_was_closed(stage: Stage, chromium: Browser, address: str) -> None:
    before = set(Client.instances)
    with watched(chromium, f"{address}/brief") as shown:
        expect(shown.locator(".lc-frame").first).to_be_visible()
        opened = set(Client.instances) - before
        assert len(opened) == 1
    wait_until(lambda: not opened & set(Client.instances), "the closed page is forgotten", seconds=20.0)


@pytest.mark.parametrize(
    ("path", "header", "value"),
    [
        ("/", "Host", "evil.example"),
        ("/_nicegui_ws/socket.io/?EIO=4&transport=polling", "Origin", "http://evil.example"),
    ],
)
def test_other_sites_cannot_talk_to_a_local_dashboard(address: str, path: str, header: str, value: str) -> None:
    with urlopen(address + path, timeout=10) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'" or "socket.io" in path
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(address + path, headers={header: value}), timeout=10)
    assert refused.value.code == 400


def test_a_port_that_is_taken_is_named() -> None:
    with app.listen("127.0.0.1", 0) as listener, pytest.raises(app.AddressTaken, match=r"127\.0\.0\.1:\d+.*--port"):
        app.listen("127.0.0.1", listener.getsockname()[1])
