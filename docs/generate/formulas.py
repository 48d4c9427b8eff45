"""Formulas: LaTeX in ``math`` fences becomes MathML, which browsers show without scripts and network."""

from typing import Any

from latex2mathml.converter import convert


def fence(source: str, *_: Any, **__: Any) -> str:
    """For ``pymdownx.superfences``: HTML of a ``math`` fence, as a formula on a line of its own.

    >>> fence("n + 1").startswith('<div class="formula"><math')
    True
    """
    return f'<div class="formula">{convert(source, display="block")}</div>'
