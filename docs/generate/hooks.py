"""What MkDocs calls while it builds the site: adds the generated pages, and points links out of ``docs/`` to pages."""

import re
from collections.abc import Callable
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.generate import commands_page, messages_page, metrics_page, python_page, settings_page, sources

#: A link to another file of the repository.
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)\s]+)")
GENERATED: dict[str, Callable[[], str]] = {
    "reference/settings.md": settings_page.page,
    "reference/metrics.md": metrics_page.page,
    "reference/messages.md": messages_page.page,
    "reference/commands.md": commands_page.page,
    "reference/python.md": python_page.page,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds pages: those made from the code, the repository's own documents, and files that pages link to."""
    for uri, make in GENERATED.items():
        files.append(File.generated(config, uri, content=make()))
    for source, uri in sources.PAGES.items():
        if (sources.ROOT / source).exists():
            files.append(File.generated(config, uri, content=_moved((sources.ROOT / source).read_text("utf-8"))))
    targets = set[str]()
    for file in files.documentation_pages():
        targets |= sources.outside(file.content_string, file.src_uri)
    for target in sorted(targets):
        if not (sources.ROOT / target).exists():
            continue  # MkDocs then says which page has the broken link
        files.append(File.generated(config, f"source/{target}.md", content=sources.source_page(target)))
    return files


def _moved(markdown: str) -> str:
    """A document of the root, as a page in ``project/``: its links start two folders deeper."""
    return _LINK.sub(lambda found: f"]({_from_project(found[1])}", markdown)


def _from_project(link: str) -> str:
    return "../" + link.removeprefix("docs/") if link.startswith("docs/") else f"../../{link}"


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Points a page's links out of ``docs/`` to pages."""
    return sources.relinked(markdown, page.file.src_uri)
