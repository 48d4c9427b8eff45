"""Audited disagreement against its budget, with the certified bound."""

from layercache.dashboard import state
from layercache.dashboard.cards import parts
from layercache.dashboard.cards.parts import Part, box, row, text
from layercache.dashboard.verdict import is_over
from layercache.dashboard.words import percent
from layercache.presenting.certificates import tested_on

_SOURCES = {
    "topic": "Audits of the version in force, as they came since this dashboard started.",
    "metrics": "As the workers count since they started, all versions together.",
    "none": "",
}


class Promise:
    """The everyday budget, and overload's if there is one."""

    def __init__(self) -> None:
        content, _ = parts.card(
            "The promise", "lc-promise-card", "How often exits differ from the full model's answer."
        )
        self._part = Part(content, _draw)

    def update(self, snapshot: state.Snapshot) -> None:
        """Shows what audits say."""
        self._part.show((snapshot.disagreement, snapshot.overload))


def scale(shown: state.Disagreement) -> float:
    """The meter's right end: the budget is in the middle, unless a value exceeds about twice the budget."""
    bounds = [shown.rate or 0.0, shown.certificate.upper_bound if shown.certificate else 0.0]
    return max(2 * shown.budget, 1.15 * max(bounds))


def _draw(shown: tuple[state.Disagreement, state.Disagreement | None]) -> None:
    everyday, overload = shown
    _draw_budget(everyday, "")
    if overload is not None:
        text("Under overload", "h3")
        _draw_budget(overload, " under overload")
    if everyday.source != "none":
        text(_SOURCES[everyday.source], "p", "lc-hint")


def _draw_budget(shown: state.Disagreement, which: str) -> None:
    draw_meter(shown, which)
    _draw_legend()
    with box("dl", "lc-list"):
        if shown.audits:
            differ = f"{percent(shown.rate, 2)} ({shown.disagreements:,} of {shown.audits:,})"
            row("Audits that differ", differ, "lc-over" if is_over(shown) else "")
            if shown.upper_bound is not None:
                of = "" if shown.tested == shown.audits else f", from {shown.tested:,} that are no near-copies"
                row("By these, at most", f"{percent(shown.upper_bound, 2)} at {percent(shown.confidence, 0)}{of}")
        else:
            row("Audits", "none yet" if shown.certificate else "none while no exit is open")
        certificate = shown.certificate
        if certificate is None:
            row("Certificate", "none: no exit is open")
        else:
            row("Certified, at most", f"{percent(certificate.upper_bound, 2)}")
            row("Test", f"{tested_on(certificate)}; attempt {certificate.attempt}")
        row("Budget", f"{percent(shown.budget)} at {percent(shown.confidence, 0)} confidence, for life")


def draw_meter(shown: state.Disagreement, which: str = "") -> None:
    """A bar for the audits, a line for the certified bound, and the budget that neither should exceed."""
    end = scale(shown)
    seen = shown.rate or 0.0
    meter = box(
        "div",
        "lc-meter",
        role="meter",
        aria_label=f"Audited disagreement{which}",
        aria_valuemin="0",
        aria_valuemax=f"{end:.4g}",
        aria_valuenow=f"{seen:.4g}",
        aria_valuetext=f"{percent(shown.rate, 2)} of audits differ, {percent(shown.budget)} may",
    )
    with meter:
        box("div", "lc-meter-budget").style(f"width:{shown.budget / end:.2%}")
        box("div", "lc-meter-seen" + (" lc-over" if is_over(shown) else "")).style(f"width:{seen / end:.2%}")
        if shown.certificate is not None:
            box("i", "lc-meter-bound").style(f"left:{shown.certificate.upper_bound / end:.2%}")
        box("i", "lc-meter-limit").style(f"left:{shown.budget / end:.2%}")


def _draw_legend() -> None:
    with box("p", "lc-legend", aria_hidden="true"):
        for name, what in (("seen", "seen in audits"), ("bound", "certified bound"), ("limit", "budget")):
            with box("span"):
                box("i", f"lc-key-{name}")
                text(what)
