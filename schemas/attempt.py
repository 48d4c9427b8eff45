"""What an attempt to certify leaves in the store: ``<model>/attempts/<n>``, its claim, and ``<n>.outcome``.

A trainer writes the claim before it looks at the attempt's frames, and the outcome after the last look. Neither is ever
changed. Trainers of earlier versions wrote a claim that is only a time, and no outcome; they count the claims by
their names and ignore outcomes.
"""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

_Number = Annotated[int, msgspec.Meta(ge=1)]
_Setting = Annotated[int, msgspec.Meta(ge=0)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class PlannedTest(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt tests one budget, fixed before its frames are looked at."""

    error: _Share
    """The level up to the target."""
    target: _Setting
    """The setting, counted in the family from the safest, that has to pass so that this error passes on."""
    bolder: bool = False
    """Whether settings beyond the target are tested as well, at half the error; then only the other half passes on."""


class AttemptClaim(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt's claim on its number, on its error, and on what earlier attempts passed on to it."""

    format: Literal[1] = 1
    claimed: str
    """RFC 3339, UTC."""
    lineage: str = ""
    """Which memory of used frames the attempt's frames are new to; empty in claims of earlier trainers."""
    confidence: float = 0.0
    """The promise's."""
    consumes: tuple[_Number, ...] = ()
    """The attempts whose shares are in this one's error."""
    family: str = ""
    """SHA-256 of the heads and of the family of settings to test, hexadecimal."""
    normal: PlannedTest | None = None
    """For `promise.max_disagreement`; null in claims of earlier trainers, which pass nothing on."""
    overload: PlannedTest | None = None
    """For `promise.overload_max_disagreement`."""
    looks: tuple[_Number, ...] = ()
    """After how many frames that count singly the attempt looks, at the latest at the last: it ends at the first look
    at which its target passes. Empty in claims of earlier trainers, which looked once."""


class AttemptOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt certified, published or not; an attempt without a whole outcome passes nothing on."""

    format: Literal[1] = 1
    ended: str
    """RFC 3339, UTC."""
    normal: _Setting | None
    """The boldest setting that passed; null for none."""
    overload: _Setting | None = None
    """The boldest one that passed under overload's budget alone; null for none."""


encoder = msgspec.json.Encoder()
_claim_decoder = msgspec.json.Decoder(AttemptClaim)
_outcome_decoder = msgspec.json.Decoder(AttemptOutcome)


def decode_claim(data: bytes) -> AttemptClaim | None:
    """Reads a claim; None for one that is damaged, half-written or of a later format.

    >>> decode_claim(b"2026-11-30T14:46:01+00:00").consumes, decode_claim(b'{"claimed": "2026-11-')
    ((), None)
    """
    try:
        return _claim_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return AttemptClaim(claimed=datetime.fromisoformat(data.decode()).isoformat())
    except ValueError:
        return None


def decode_outcome(data: bytes) -> AttemptOutcome | None:
    """Reads an outcome; None for one that is damaged, half-written or of a later format.

    >>> decode_outcome(b'{"ended": "2026-11-30T14:46:01Z", "normal": 17}').normal, decode_outcome(b"")
    (17, None)
    """
    try:
        return _outcome_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
