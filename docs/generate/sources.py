"""Points links out of ``docs/`` to pages that show the file, so that the site is complete without a network."""

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]

_LINK = re.compile(r"(\]\()((?:\.\./)+[^)\s#]+)")
_LANGUAGES = {".yml": "yaml", ".yaml": "yaml", ".toml": "toml", ".json": "json", ".py": "python", ".env": "ini"}
#: Files that have pages of their own.
PAGES = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security-policy.md",
}


def relinked(markdown: str, uri: str) -> str:
    """A page's Markdown with its links out of ``docs/`` pointing to pages; ``uri`` is its path below ``docs/``.

    >>> relinked("[the stack](../docker-compose.yml), [heads](heads.md)", "stack.md")
    '[the stack](source/docker-compose.yml.md), [heads](heads.md)'
    >>> relinked("[schema](../../schemas/json/pin.json)", "reference/messages.md")
    '[schema](../source/schemas/json/pin.json.md)'
    """
    folder = posixpath.dirname(uri)

    def point(found: re.Match[str]) -> str:
        target = _target(folder, found[2])
        if target is None:
            return found[0]
        page = PAGES.get(target, f"source/{target}.md")
        return found[1] + posixpath.relpath(page, folder or ".")

    return _LINK.sub(point, markdown)


def outside(markdown: str, uri: str) -> set[str]:
    """Files outside ``docs/`` that a page links to, except those with pages of their own.

    >>> outside("[stack](../docker-compose.yml), [drift](../benchmarks/drift.md)", "a/b.md")
    set()
    >>> outside("[stack](../docker-compose.yml)", "stack.md")
    {'docker-compose.yml'}
    """
    targets = (_target(posixpath.dirname(uri), found[2]) for found in _LINK.finditer(markdown))
    return {target for target in targets if target is not None and target not in PAGES}


def _target(folder: str, link: str) -> str | None:
    """A link's target from the repository's root; None where it is in ``docs/``."""
    path = posixpath.normpath(posixpath.join("docs", folder, link))
    return None if path.startswith(("docs/", "..")) else path


def source_page(target: str) -> str:
    """A page that shows a file of the repository, or all text files of a folder.

    Raises ``FileNotFoundError`` where there is none.
    """
    path = ROOT / target
    if path.is_file():
        return f"# {target}\n\n{_block(path)}"
    files = [file for file in sorted(path.iterdir()) if file.suffix in _LANGUAGES]
    return f"# {target}\n\n" + "\n".join(f"## {file.name}\n\n{_block(file)}" for file in files)


def _block(path: Path) -> str:
    return f"````{_LANGUAGES.get(path.suffix, 'text')}\n{path.read_text(encoding='utf-8').rstrip()}\n````\n"
