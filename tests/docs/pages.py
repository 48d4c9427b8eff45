"""What people read: the pages as Markdown, taken apart into blocks of code, inline code, links and headings."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
_PARSER = MarkdownIt().enable("table")


@dataclass(frozen=True)
class Found:
    """Something on a page; ``where`` is its file and line, for whoever has to mend it."""

    where: str
    text: str
    kind: str = ""
    """Of a block of code: its language."""


def pages() -> list[Path]:
    """Everything that is written by hand for people, and what benchmarks wrote; the site's generated pages are not."""
    root = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
    return [*root, *sorted((ROOT / "docs").rglob("*.md"))]


def named(page: Path) -> str:
    """A page's name, from the repository's root."""
    return str(page.relative_to(ROOT))


@cache
def _tokens(page: Path) -> list[Token]:
    return _PARSER.parse(page.read_text(encoding="utf-8"))


def blocks(page: Path, *languages: str) -> Iterator[Found]:
    """The page's fenced blocks in these languages."""
    for token in _tokens(page):
        language = token.info.split()[0] if token.info.strip() else ""
        if token.type == "fence" and language in languages:
            assert token.map is not None
            yield Found(f"{named(page)}:{token.map[0] + 1}", token.content, language)


def _inline(page: Path) -> Iterator[tuple[str, Token]]:
    """Every piece of a paragraph, a heading or a table, and where it stands."""
    line = 0
    for token in _tokens(page):
        line = token.map[0] + 1 if token.map else line
        for child in token.children or ():
            yield f"{named(page)}:{line}", child


def inline_code(page: Path) -> Iterator[Found]:
    """Code within sentences."""
    for where, token in _inline(page):
        if token.type == "code_inline":
            yield Found(where, token.content)


def links(page: Path) -> Iterator[Found]:
    """Targets of links and pictures, as they are written."""
    for where, token in _inline(page):
        target = token.attrGet("href") or token.attrGet("src")
        if token.type in ("link_open", "image") and isinstance(target, str):
            yield Found(where, target)


def anchors(page: Path) -> set[str]:
    """What a link to a part of the page may name, as GitHub makes it of headings."""
    tokens = _tokens(page)
    headings = (after for token, after in pairwise(tokens) if token.type == "heading_open")
    return {slug("".join(child.content for child in heading.children or ())) for heading in headings}


def slug(heading: str) -> str:
    """A heading's anchor.

    >>> slug("Kafka: TLS, SASL and rights")
    'kafka-tls-sasl-and-rights'
    """
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
