"""What a PromQL expression asks for: metrics, each with the labels that it needs."""

from collections.abc import Iterable, Iterator
from typing import Any

import promql_parser
from promql_parser import AggModifierType, AggregateExpr, BinaryExpr, Call, VectorMatchCardinality, VectorSelector

#: What Grafana puts in before it asks.
_VARIABLES = {"$__rate_interval": "1m", "$__interval": "1m", "$__range": "1h"}


def filled_in(text: str) -> str:
    """The expression as Grafana asks it; raises ``ValueError`` for a variable that it does not know."""
    for variable, value in _VARIABLES.items():
        text = text.replace(variable, value)
    if "$" in text:
        raise ValueError(f"a variable that nobody fills in: {text}")
    return text


def parse(text: str) -> Any:
    """The expression's tree; raises ``ValueError`` for what is none."""
    return promql_parser.parse(filled_in(text))


def asked(text: str, shown: Iterable[str] = ()) -> Iterator[tuple[str, frozenset[str]]]:
    """Each metric of an expression, with every label that it is picked, grouped or matched by, or that is ``shown``.

    >>> sorted((name, sorted(labels)) for name, labels in asked('sum by (le) (rate(a_bucket{job="w"}[5m])) > on () b'))
    [('a_bucket', ['job', 'le']), ('b', [])]
    >>> list(asked("sum by (exit) (a)", shown=["stage"]))
    Traceback (most recent call last):
    ValueError: ['stage'] is asked of what has only ['exit']: sum by (exit)(a{})
    """
    yield from _asked(parse(text), frozenset(shown))


def _asked(node: Any, outer: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    if isinstance(node, VectorSelector):
        if node.name is None:
            raise ValueError(f"name the metric: {node}")
        yield node.name, outer | {matcher.name for matcher in node.matchers.matchers}
    elif isinstance(node, AggregateExpr):
        yield from _asked(node.expr, outer if str(node.op) == "topk" and not node.modifier else _left(node, outer))
    elif isinstance(node, BinaryExpr):
        yield from _asked_of_both(node, outer)
    elif isinstance(node, Call):
        needed = {"le"} if node.func.name == "histogram_quantile" else set()
        for argument in node.args:
            yield from _asked(argument, outer | needed)
    else:
        for name in ("expr", "vector_selector"):
            if hasattr(node, name):
                yield from _asked(getattr(node, name), outer)


def _left(node: AggregateExpr, outer: frozenset[str]) -> frozenset[str]:
    """The labels that an aggregation leaves: what is asked of it must be among them."""
    if node.modifier and node.modifier.type == AggModifierType.Without:
        raise ValueError(f"say which labels stay, by `by`: {node}")
    own = frozenset(node.modifier.labels) if node.modifier else frozenset()
    if not outer <= own:
        raise ValueError(f"{sorted(outer - own)} is asked of what has only {sorted(own)}: {node}")
    return own


def _asked_of_both(node: BinaryExpr, outer: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """Labels of ``on`` must be on both sides; what is asked of the result, on the side that gives its labels."""
    modifier = node.modifier
    on = frozenset(modifier.matching.labels) if modifier and modifier.matching else frozenset()
    right_gives = modifier is not None and modifier.card == VectorMatchCardinality.OneToMany
    yield from _asked(node.lhs, on if right_gives else on | outer)
    yield from _asked(node.rhs, on | outer if right_gives or str(node.op) == "or" else on)
