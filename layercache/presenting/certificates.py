"""What a certificate was tested on, in words."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layercache.schemas.manifest import Certificate


def duration(seconds: float) -> str:
    """A time in one unit.

    >>> duration(200_000), duration(7_200), duration(300), duration(-1)
    ('2 days', '2 hours', '5 minutes', '0 seconds')
    """
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} seconds"


def tested_on(certificate: "Certificate") -> str:
    """Which audits it is of: how many differ, of how long a time, and how many were of pictures that had come before.

    >>> from layercache.schemas.manifest import Certificate
    >>> tested = Certificate(max_disagreement=0.01, confidence=0.95, attempt=1, error=0.05, frames=1000,
    ...     disagreements=2, p_value=0.003, upper_bound=0.006, repeated=50, span_s=7_200.0)
    >>> tested_on(tested)
    '2 of 1,000 audits of 2 hours differ; 0 of 50 more do, of pictures that had come before'
    >>> from msgspec.structs import replace
    >>> tested_on(replace(tested, repeated=0, block_frames=10, blocks=240))
    '2 of 1,000 audits of 2 hours, in 240 blocks, differ'
    >>> tested_on(replace(tested, repeated=0, block_frames=1))
    '2 of 1,000 audits of 2 hours, one of each block, differ'
    """
    span = "" if certificate.span_s is None else f" of {duration(certificate.span_s)}"
    blocks = ""
    if certificate.blocks is not None:
        blocks = f", in {certificate.blocks:,} blocks,"
    elif certificate.block_frames is not None:
        blocks = ", one of each block,"
    differ = f"{certificate.disagreements:,} of {certificate.frames:,} audits{span}{blocks} differ"
    if not certificate.repeated:
        return differ
    of = f"{certificate.repeated_disagreements:,} of {certificate.repeated:,} more do"
    return f"{differ}; {of}, of pictures that had come before"
