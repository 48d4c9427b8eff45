"""Judges the state: one sentence for the top of the page, and how serious it is."""

from typing import Literal

import msgspec

from layercache.cache_training.certifying.binomial import lower_bound
from layercache.dashboard import state
from layercache.dashboard.words import percent, plural

#: The error of each look: people look at the page all day, and it must not say by chance that errors exceed the budget.
_LOOK_ERROR = 1e-3
#: Work that waits for longer than this is worth a warning.
_MUCH_LAG_S = 30.0

Level = Literal["good", "quiet", "warn", "bad"]


class Verdict(msgspec.Struct, frozen=True):
    """How the state is, in words."""

    level: Level
    headline: str
    detail: str


def judge(snapshot: state.Snapshot) -> Verdict:
    """The most serious trouble, or that all is well."""
    return _trouble(snapshot) or _standstill(snapshot) or _fine(snapshot)


def _trouble(snapshot: state.Snapshot) -> Verdict | None:
    now, seen = snapshot.disagreement, snapshot.disagreement.rate
    unreachable = {problem.where for problem in snapshot.problems}
    alarms = [alarm for alarm in snapshot.alarms if alarm.active]
    if "broker" in unreachable:
        return Verdict("bad", "The broker cannot be reached", "What stands below is what was last known.")
    if seen is not None and is_over(now):
        detail = f"{percent(seen, 2)} of {plural(now.audits, 'audit')} differ, {percent(now.budget)} may."
        return Verdict("bad", "Exits differ more often than they may", detail)
    if alarms:
        more = f" And {plural(len(alarms) - 1, 'more alarm')}, below." if len(alarms) > 1 else ""
        return Verdict("warn", "Drift: exits are closed where they exceed their budget", f"{alarms[0].message}.{more}")
    if unreachable:
        names = ", ".join(sorted(unreachable))
        return Verdict("warn", "Something cannot be read", f"This page goes on without it: {names}.")
    wait_s = _wait_s(snapshot)
    if wait_s > _MUCH_LAG_S:
        return Verdict("warn", "Workers are behind", f"About {wait_s:,.0f} s of frames wait to be answered.")
    return None


def is_over(seen: state.Disagreement) -> bool:
    """Whether audits without near-copies show that errors exceed the budget, and not by chance."""
    return lower_bound(seen.tested_disagreements, seen.tested, _LOOK_ERROR) > seen.budget


def _standstill(snapshot: state.Snapshot) -> Verdict | None:
    if not snapshot.frames:
        return Verdict("quiet", "No frames yet", "Publish some: layercache publish photos/")
    if not snapshot.now.frames:
        return Verdict("quiet", "No frames in the last minute", "The latest answers are shown below.")
    if snapshot.heads.closed:
        why = f" ({snapshot.heads.pin_reason})" if snapshot.heads.pin_reason else ""
        return Verdict(
            "quiet", "All exits are kept closed", f"An operator said so{why}; every frame runs the full model."
        )
    if not any(version.live and version.exits for version in snapshot.heads.versions):
        return Verdict(
            "quiet", "Learning", "No exit is open yet: every frame runs the full model, and heads learn from it."
        )
    return None


def _fine(snapshot: state.Snapshot) -> Verdict:
    now, seen = snapshot.now, snapshot.disagreement
    certificate = seen.certificate
    bound = f", certified to differ from it in at most {percent(certificate.upper_bound, 2)}" if certificate else ""
    detail = f"{percent(now.hit_rate)} of frames leave before the full model{bound}; {percent(seen.budget)} may."
    return Verdict("good", "All is well", detail)


def _wait_s(snapshot: state.Snapshot) -> float:
    """Seconds of work that wait for workers: their own estimate, or lag by pace."""
    for lag in snapshot.lags:
        if lag.who == "workers":
            if lag.seconds is not None:
                return lag.seconds
            return lag.total / snapshot.now.frames_per_s if snapshot.now.frames_per_s else 0.0
    return 0.0
