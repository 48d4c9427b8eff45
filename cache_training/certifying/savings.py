"""When one share of the model's time that is saved is worth more than another, and when it is worth nearly as much."""

#: Nearly as much, and nearly as quick.
_NEARLY = 0.96
#: A later attempt must be expected to save this much more of the plain model's time than the live version, or, where
#: that version leaves little, this share of what it leaves.
_AT_LEAST, _OF_WHAT_IS_LEFT = 0.05, 0.15


def saves_nearly(saved: float, most: float) -> bool:
    """Whether ``saved`` is nearly ``most``, of the time, and what is left takes hardly longer.

    The first alone would not do: where 0.86 is saved, 96 % of that is 1.25 times as slow.

    >>> [saves_nearly(saved, most) for saved, most in ((0.097, 0.1), (0.09, 0.1), (0.855, 0.86), (0.83, 0.86))]
    [True, False, True, False]
    """
    return saved >= _NEARLY * most and _NEARLY * (1 - saved) <= 1 - most


def worthwhile_beyond(live: float) -> float:
    """An attempt is worth its error if it saves more of the time than this, where the live version saves ``live``.

    >>> [round(worthwhile_beyond(live), 3) for live in (0.0, 0.4, 0.8)]
    [0.05, 0.45, 0.83]
    """
    return live + min(_AT_LEAST, _OF_WHAT_IS_LEFT * (1 - live))


def is_worthwhile(saved: float, live: float) -> bool:
    """Whether an attempt that is expected to save so much is worth its error.

    >>> is_worthwhile(0.84, 0.8), is_worthwhile(0.82, 0.8)
    (True, False)
    """
    return saved > worthwhile_beyond(live)
