"""How the page writes numbers: with units, and a dash for a value that is unknown."""

from layercache.presenting.savings import is_precision
from layercache.schemas.prediction import FULL

NOTHING = "–"


def answered_by(exit_name: str) -> str:
    """An exit's name where it stands alone: that of its cut, or what the model's ends are.

    >>> answered_by("layer2"), answered_by("int8"), answered_by("full")
    ('layer2', 'int8 model', 'full model')
    """
    return f"{exit_name} model" if exit_name == FULL or is_precision(exit_name) else exit_name


def percent(share: float | None, digits: int = 1) -> str:
    """A share.

    >>> percent(0.7412), percent(0.0042, 2), percent(None)
    ('74.1%', '0.42%', '–')
    """
    return NOTHING if share is None else f"{share:.{digits}%}"


def count(number: float | None) -> str:
    """A whole number.

    >>> count(12345), count(None)
    ('12,345', '–')
    """
    return NOTHING if number is None else f"{number:,.0f}"


def rate(per_s: float | None) -> str:
    """How often within a second, without the unit.

    >>> rate(54.84), rate(12345.6), rate(None)
    ('54.8', '12,346', '–')
    """
    return NOTHING if per_s is None else f"{per_s:,.{1 if per_s < 1000 else 0}f}"


def milliseconds(ms: float | None) -> str:
    """A short while.

    >>> milliseconds(0.0), milliseconds(4.217), milliseconds(318.2), milliseconds(2318.0), milliseconds(754_000.0)
    ('0 ms', '4.2 ms', '318 ms', '2.3 s', '12.6 min')
    """
    if ms is None:
        return NOTHING
    if ms < 10:
        return f"{ms:.2g} ms"
    if ms < 1_000:
        return f"{ms:.0f} ms"
    return f"{ms / 1_000:.1f} s" if ms < 120_000 else f"{ms / 60_000:,.1f} min"


def plural(number: int, one: str, many: str = "") -> str:
    """A number of things.

    >>> plural(1, "frame"), plural(2_000, "frame"), plural(0, "class", "classes")
    ('1 frame', '2,000 frames', '0 classes')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
