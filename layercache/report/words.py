"""What the numbers mean, in sentences and cells: the same in the terminal and on the page."""

from dataclasses import dataclass

from layercache.report.findings import reason
from layercache.report.numbers import Budget, Report

DASH = "–"


@dataclass(frozen=True)
class Row:
    """A budget in a table."""

    budget: str
    state: str
    leaves: str
    flops: str
    faster: str
    differed: str
    interval: str
    """Where the true share of differing answers lies, with 95 % confidence, judged by the exam alone."""


def percent(share: float, digits: int = 1) -> str:
    """A share for people; what is not nothing does not look like nothing.

    >>> percent(0.123), percent(0.0004), percent(0.005, 2)
    ('12.3 %', '0.04 %', '0.50 %')
    """
    shown = f"{100 * share:.{digits}f} %"
    return f"{100 * share:.1g} %" if share and not float(shown[:-2]) else shown


def budget_row(budget: Budget) -> Row:
    """One budget's cells."""
    name, exam = f"{100 * budget.max_disagreement:g} %", budget.exam
    if budget.state == "certified" and budget.certificate is not None:
        state = f"certified: at most {percent(budget.certificate.upper_bound, 2)}"
    else:
        state = "not certified" if budget.state == "estimated" else "nothing to open"
    if exam is None:
        return Row(name, state, DASH, DASH, DASH, DASH, DASH)
    return Row(
        budget=name,
        state=state,
        leaves=percent(exam.hit_rate),
        flops=percent(exam.flops_saved),
        faster=f"{exam.speedup:.2f} ×" if exam.speedup is not None else DASH,
        differed=f"{exam.disagreements:,} of {exam.frames:,} ({percent(exam.disagreement, 2)})",
        interval=f"{percent(exam.lowest, 2)} to {percent(exam.highest, 2)}",
    )


def verdict(report: Report) -> str:
    """What to remember."""
    promised, model = report.promised, report.model.name
    certified = [one for one in report.budgets if one.state == "certified" and one.exam is not None]
    if promised in certified:
        return _saved(promised, report, f"{model}: certified for {_share(promised)}")
    if certified:
        other = min(certified, key=lambda one: abs(one.max_disagreement - promised.max_disagreement))
        because = f"nothing could be certified at {_share(promised)} ({reason(promised, report.confidence)})"
        return _saved(other, report, f"{model}: {because}. For {_share(other)}")
    because = f"{model}: nothing could be certified at {_share(promised)}: {reason(promised, report.confidence)}."
    if promised.exam is not None:
        return because + " " + _saved(promised, report, "By an estimate without a promise,")
    return because


def _saved(budget: Budget, report: Report, begin: str) -> str:
    exam = budget.exam
    assert exam is not None
    faster = f" and a worker was {exam.speedup:.2f} times as fast on this machine" if exam.speedup is not None else ""
    if begin.endswith(","):
        begin += " thresholds chosen for " + _share(budget)
    return (
        f"{begin}: {percent(exam.hit_rate)} of held-out frames left early, {percent(exam.flops_saved)} of the FLOPs "
        f"were saved{faster}; {exam.disagreements:,} of {exam.frames:,} answers ({percent(exam.disagreement, 2)}) "
        "differed from the full model's."
    )


def _share(budget: Budget) -> str:
    return f"{100 * budget.max_disagreement:g} % disagreement"
