"""The page: everything in one file, the user's names escaped, at home on a phone and at night."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from playwright.sync_api import Browser

from layercache.report import page
from layercache.report.numbers import Report
from tests.layercache.reports import EXAM, certified, report, uncertified
from tests.support import browser as browsers


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.browser() as opened:
        yield opened


HOSTILE = "<script>alert('x')</script>&\"'"


def empty() -> Report:
    """A report of which everything that may be missing is."""
    found = report(budgets=(uncertified(0.01, state="nothing", exam=None),), classes=(), curve=())
    return replace(found, stream=replace(found.stream, versions=()))


def test_it_holds_the_numbers_and_needs_nothing_from_anywhere() -> None:
    html = page.render(report())
    for text in (
        "pets",
        "82.0 %",
        "6 of 1,500 (0.40 %)",
        "1.90 ×",
        "certified: at most 0.90 %",
        "photos.zip",
        "cat",
        "1.14 ×",
        "as fast as OpenVINO int8, which has no certificate",
        "18 of 1,500 (1.20 %)",
        "nothing bounds it",
        "PyTorch 200, OpenVINO float32 240, OpenVINO int8 340",
    ):
        assert text in html
    assert html.count("<svg") == 4
    assert "<script" not in html
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"', html)
    assert not re.search(r"url\((?!#)", html)


def test_the_model_in_int8_is_named_as_what_it_is_and_has_a_colour_of_its_own() -> None:
    exam = replace(EXAM, exits={"layer1": 0.5, "int8": 0.48, "full": 0.02}, time_saved=0.8, flops_saved=-0.05)
    html = page.render(report(budgets=(certified(0.01, exam),)))
    assert "the model in <code>int8</code>" in html
    assert '<i class="precision" style="width:48.00%">' in html
    assert "of its FLOPs none, 5.0 % more" in html
    assert "-5.0 %" not in html


def test_plots_take_their_colours_from_the_page() -> None:
    html = page.render(report())
    assert not re.search(r"#0[1-7]0[1-7]0[1-7]\b", html)
    assert "stroke: var(--teal)" in html and "fill: var(--ink)" in html


def test_the_users_names_are_escaped() -> None:
    found = report({"source": HOSTILE, "top_class": HOSTILE, "top_class_share": 0.99}, command=HOSTILE)
    cuts = tuple(dataclasses.replace(cut, name=HOSTILE) for cut in found.model.cuts)
    found = replace(
        found,
        model=replace(found.model, name=HOSTILE, cuts=cuts),
        classes=tuple(replace(one, name=HOSTILE) for one in found.classes),
    )
    html = page.render(found)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 5


def test_a_report_without_exits_has_a_page_too() -> None:
    html = page.render(empty())
    assert "No exit was opened on this stream" in html
    assert "nothing to open" in html
    assert html.count("<svg") == 2


def test_the_same_numbers_make_the_same_page() -> None:
    assert page.render(report()) == page.render(report())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_it_without_a_complaint_and_without_scrolling_sideways(
    tmp_path: Path, browser: Browser, scheme: str, width: int
) -> None:
    file = tmp_path / "report.html"
    page.write(report(budgets=(uncertified(), certified(), certified(0.02), certified(0.05))), file)
    size = {"width": width, "height": 900}
    with browsers.watched(browser, file.as_uri(), color_scheme=scheme, viewport=size) as opened:
        assert "pets" in opened.title()
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
        background = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 22, 29)")
        stroke = opened.evaluate("getComputedStyle(document.querySelector('svg path[style*=teal]')).stroke")
        assert stroke == ("rgb(13, 148, 136)" if scheme == "light" else "rgb(63, 197, 180)")
