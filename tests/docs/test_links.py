"""Links lead somewhere: between the pages as they lie in the repository, where people read them as well."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from docs.generate.hooks import GENERATED
from tests.docs.pages import ROOT, Found, anchors, links, named, pages

#: Pages that the site is built with, and that are not in the repository.
MADE = {(ROOT / "docs" / uri).resolve() for uri in GENERATED}


def broken(page: Path, link: Found) -> str | None:
    """Why a link leads nowhere; None for one that is well."""
    parts = urlsplit(link.text)
    if parts.scheme:
        if parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1") and parts.port:
            return None  # a service that the page has just started
        if parts.scheme not in ("https", "mailto") or "." not in (parts.hostname or ""):
            return "no address that people can follow"
        return "ends in punctuation" if re.search(r"[.,;:]$", link.text) else None
    target = (page.parent / parts.path).resolve() if parts.path else page
    if target in MADE:
        # The repository's own pages are read where there is no site; those of the site belong together.
        return None if page.is_relative_to(ROOT / "docs") else "is made when the site is built; link to its source"
    if not target.exists():
        return "there is no such file"
    if not target.is_relative_to(ROOT):
        return "leaves the repository"
    if parts.fragment and parts.fragment not in anchors(target):
        return f"there is no such heading; there are {', '.join(sorted(anchors(target)))}"
    return None


@pytest.mark.parametrize("page", pages(), ids=named)
def test_links_resolve(page: Path) -> None:
    found = [f"{link.where}: {link.text}: {why}" for link in links(page) if (why := broken(page, link))]
    assert found == []


def test_there_are_links_to_check() -> None:
    texts = [link.text for page in pages() for link in links(page)]
    assert sum(text.startswith("https:") for text in texts) > 10
    assert sum("://" not in text for text in texts) > 60


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("docs/nowhere.md", "no such file"),
        ("docs/security.md#nothing", "no such heading"),
        ("#nothing", "no such heading"),
        ("../elsewhere.md", "no such file"),
        ("http://example.com/", "no address"),
        ("http://localhost/", "no address"),
        ("https://intranet/", "no address"),
        ("docs/reference/settings.md", "is made when"),
    ],
)
def test_a_broken_link_is_found(text: str, why: str) -> None:
    assert why in (broken(ROOT / "README.md", Found("README.md:1", text)) or "")
