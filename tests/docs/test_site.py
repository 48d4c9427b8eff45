"""The site builds without a warning, is whole without a network, and says what the code says."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from docs.generate.metrics_page import trainer_metrics, worker_metrics
from layercache.cli.settings import rows
from layercache.schemas.dead_letter import Reason
from tests.docs.pages import ROOT

pytestmark = pytest.mark.slow  # building the site takes a quarter of a minute

#: What a browser fetches by itself when it shows a page.
FETCHED = {"script", "img", "iframe", "source", "video", "audio", "embed"}


@dataclass
class Document(HTMLParser):
    """A page of the site: where its links lead, what it fetches, which anchors it has."""

    text: str
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if "href" in given:
            # Of links in the head, all but these are fetched.
            named_only = tag == "a" or given.get("rel") in ("canonical", "prev", "next", "edit")
            (self.links if named_only else self.fetched).append(given["href"])
        if "src" in given and tag in FETCHED:
            self.fetched.append(given["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
        timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder


@cache
def document(path: Path) -> Document:
    return Document(path.read_text(encoding="utf-8"))


def documents(site: Path) -> Iterator[tuple[str, Document]]:
    for path in sorted(site.rglob("*.html")):
        if path.name != "404.html":  # its links begin at the server's root
            yield str(path.relative_to(site)), document(path)


def test_it_fetches_nothing_from_elsewhere(site: Path) -> None:
    elsewhere = [(name, url) for name, one in documents(site) for url in one.fetched if urlsplit(url).netloc]
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert elsewhere == []
    assert [url for url in re.findall(r"url\(['\"]?([^)'\"]+)", styles) if url.startswith(("http", "//"))] == []


def test_its_links_and_anchors_resolve(site: Path) -> None:
    broken = []
    for name, one in documents(site):
        for link in (*one.links, *one.fetched):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            path = ((site / name).parent / unquote(parts.path)).resolve() if parts.path else site / name
            path = path / "index.html" if path.is_dir() else path
            if not path.exists():
                broken.append(f"{name}: {link}: no such file")
            elif parts.fragment and path.suffix == ".html" and unquote(parts.fragment) not in document(path).anchors:
                broken.append(f"{name}: {link}: no such anchor")
    assert broken == []


def test_nothing_made_for_the_build_lies_in_it(site: Path) -> None:
    assert [path for path in site.rglob("*") if path.suffix in (".py", ".pyc")] == []


def test_the_reference_has_every_setting_metric_and_name(site: Path) -> None:
    def page(name: str) -> str:
        return (site / "reference" / f"{name}.html").read_text(encoding="utf-8")

    import layercache

    assert [row.name for row in rows() if f"<code>{row.name}</code>" not in page("settings")] == []
    metrics = [*worker_metrics(), *trainer_metrics()]
    assert [metric.name for metric in metrics if f"<code>{metric.name}</code>" not in page("metrics")] == []
    messages = page("messages")
    assert [one.value for one in Reason if f"<code>{one.value}</code>" not in messages] == []
    rows_of_topics = re.findall(r"<tr>\s*<td><code>([\w.]+)</code></td>\s*<td>(.*?)</td>", messages)[:4]
    assert {topic for topic, key in rows_of_topics if key} == {"frames", "predictions", "frames.dlq", "distillation"}
    names = [name for name in layercache.__all__ if not name.startswith("_")]
    anchors = document(site / "reference" / "python.html").anchors
    assert [name for name in names if f"layercache.{name}" not in anchors] == []


def test_examples_in_docstrings_are_shown_as_code(site: Path) -> None:
    text = (site / "reference" / "python.html").read_text(encoding="utf-8")
    assert '<span class="gp">&gt;&gt;&gt; </span>' in text, "no prompt is set as code"
    assert "<blockquote>" not in text, "an example's prompts were taken for a quotation"
    assert not re.search(r":(class|meth|func|attr):", text), "a role of Sphinx's is shown as text"


def test_formulas_are_shown_without_a_script(site: Path) -> None:
    text = (site / "certificate.html").read_text(encoding="utf-8")
    assert text.count("<math") >= 2
    assert "\\Pr" not in text
