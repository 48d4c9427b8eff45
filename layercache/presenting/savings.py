"""What exits save, in words: time, and FLOPs beside it, since a model in int8 saves the one and not the other."""

from collections.abc import Callable
from typing import get_args

from layercache.schemas.manifest import PathPrecision

#: Shares nearer to nothing than this read as nothing.
_NOTHING = 0.0005


def percent(share: float) -> str:
    """A share as terminals show it."""
    return f"{share:.1%}"


def flops_saved(saved: float, shown: Callable[[float], str] = percent) -> str:
    """A share of FLOPs saved, for a table's cell; audits, heads and int8 can cost more than they save.

    >>> flops_saved(0.123), flops_saved(0.0), flops_saved(-0.03)
    ('12.3%', 'none', 'none, 3.0% more')
    """
    if saved < -_NOTHING:
        return f"none, {shown(-saved)} more"
    return shown(saved) if saved > _NOTHING else "none"


def time_and_flops(time_saved: float, flops: float, shown: Callable[[float], str] = percent) -> str:
    """Both as a clause.

    >>> time_and_flops(0.5, 0.4)
    '50.0% of the time and 40.0% of the FLOPs were saved'
    >>> time_and_flops(0.75, -0.03)
    '75.0% of the time was saved, though no FLOPs (3.0% more were spent: in int8 a FLOP takes less time)'
    >>> time_and_flops(0.0, -0.01)
    'no time was saved, and no FLOPs'
    """
    if time_saved <= _NOTHING:
        return "no time was saved, " + (f"but {shown(flops)} of the FLOPs" if flops > _NOTHING else "and no FLOPs")
    if flops > _NOTHING:
        return f"{shown(time_saved)} of the time and {shown(flops)} of the FLOPs were saved"
    more = f"{shown(-flops)} more were spent: " if flops < -_NOTHING else ""
    return f"{shown(time_saved)} of the time was saved, though no FLOPs ({more}in int8 a FLOP takes less time)"


def saving(time_saved: float, flops: float) -> str:
    """Both as an object, for what a version should save.

    >>> saving(0.55, 0.6), saving(0.75, -0.03)
    ('55.0% of time and 60.0% of FLOPs', '75.0% of time, but no FLOPs (3.0% more are spent)')
    """
    if flops > _NOTHING:
        return f"{percent(time_saved)} of time and {percent(flops)} of FLOPs"
    more = f" ({percent(-flops)} more are spent)" if flops < -_NOTHING else ""
    return f"{percent(time_saved)} of time, but no FLOPs{more}"


def is_precision(exit_name: str) -> bool:
    """Whether an exit is the model itself in another precision, the end of a compiled path.

    >>> is_precision("int8"), is_precision("layer2")
    (True, False)
    """
    return exit_name in get_args(PathPrecision)
