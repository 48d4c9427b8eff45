"""Turns docstrings into Markdown for mkdocstrings: they are sentences with Sphinx's roles, and doctest's examples."""

import doctest
import re

from griffe import Extension, Object

_ROLE = re.compile(r":[a-z:]+:`~?([^`]+)`")
_DOUBLE = re.compile(r"``([^`]+)``")


def as_markdown(text: str) -> str:
    """A docstring's text as Markdown: its examples in fences, its roles as code.

    >>> as_markdown("Like :meth:`live`.\\n\\n>>> 1 + 1\\n2").splitlines()
    ['Like `live`.', '', '```pycon', '>>> 1 + 1', '2', '```']
    """
    parts = []
    for part in doctest.DocTestParser().parse(text):
        if isinstance(part, str):
            prose = _DOUBLE.sub(r"`\1`", _ROLE.sub(r"`\1`", part))
            # "as follows::" announces a block of code in Sphinx's markup; Markdown goes by the indentation.
            parts.append(re.sub(r"::$", ":", prose, flags=re.MULTILINE))
        else:
            lines = part.source.rstrip("\n").splitlines()
            shown = "\n".join(f"{'...' if number else '>>>'} {line}" for number, line in enumerate(lines))
            parts.append(f"```pycon\n{shown}\n{part.want}```\n")
    return "".join(parts).replace("```\n```pycon\n", "").rstrip("\n")


class MarkdownDocstrings(Extension):
    """For mkdocstrings' ``extensions``."""

    def on_object(self, *, obj: Object, **_: object) -> None:
        """Rewrites an object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
