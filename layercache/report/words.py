"""What the numbers mean, in sentences and cells: the same in the terminal and on the page."""

from dataclasses import dataclass

from layercache.measuring.plain_runtimes import PYTORCH
from layercache.presenting.savings import flops_saved, time_and_flops
from layercache.report.findings import reason
from layercache.report.numbers import Budget, Exam, Plain, Report

DASH = "–"


@dataclass(frozen=True)
class Row:
    """A budget in a table."""

    budget: str
    state: str
    leaves: str
    time: str
    flops: str
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


@dataclass(frozen=True)
class Side:
    """One way to run the model, in the table that has all of them side by side."""

    name: str
    fps: str
    """Frames per second, the worker's whole path."""
    times_pytorch: str
    times_plain: str
    differed: str
    """From the model, on the exam's frames."""
    bound: str
    """What bounds that."""
    kind: str
    """``reference``, ``plain``, ``certified`` or ``estimated``."""


def sides(report: Report) -> tuple[Side, ...]:
    """PyTorch, the best plain runtime where it is another, and Layercache at each budget with exits."""
    plain, found = report.plain, list[Side]()
    timed = [one.exam for one in (report.promised, *report.budgets) if one.exam and one.exam.speedup is not None]
    race = timed[0] if timed else None
    alone = plain.name == PYTORCH
    found.append(
        Side(
            name="PyTorch, the model as it is" + (", and the best plain runtime" if alone else ""),
            fps=_fps(race.closed_fps if race else plain.heats_fps.get(PYTORCH)),
            times_pytorch="1.00 ×",
            times_plain="1.00 ×"
            if alone
            else _ratio(race.closed_fps, race.plain_fps)
            if race
            else _heats(report, PYTORCH),
            differed=f"0 of {plain.frames:,}",
            bound="its answers are what counts",
            kind="reference",
        )
    )
    if not alone:
        found.append(
            Side(
                name=f"{plain.name}, the best plain runtime",
                fps=_fps(race.plain_fps if race else plain.heats_fps[plain.name]),
                times_pytorch=_ratio(race.plain_fps, race.closed_fps) if race else _heats(report, plain.name),
                times_plain="1.00 ×",
                differed=_differed(plain),
                bound="nothing bounds it",
                kind="plain",
            )
        )
    found += [_our_side(budget, budget.exam) for budget in report.budgets if budget.exam is not None]
    return tuple(found)


def _our_side(budget: Budget, exam: Exam) -> Side:
    row = budget_row(budget)
    is_certified = budget.state == "certified" and budget.certificate is not None
    return Side(
        name=f"Layercache, budget {row.budget}",
        fps=_fps(exam.with_exits_fps),
        times_pytorch=_times(exam.speedup),
        times_plain=_times(exam.speedup_plain),
        differed=row.differed,
        bound=row.state if is_certified else "not certified",
        kind="certified" if is_certified else "estimated",
    )


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
        time=percent(exam.time_saved),
        flops=flops_saved(exam.flops_saved, percent),
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
    faster = _faster(exam, report)
    if begin.endswith(","):
        begin += " thresholds chosen for " + _share(budget)
    return (
        f"{begin}: {percent(exam.hit_rate)} of held-out frames left at an exit, "
        f"{time_and_flops(exam.time_saved, exam.flops_saved, percent)}{faster}; {exam.disagreements:,} of "
        f"{exam.frames:,} answers ({percent(exam.disagreement, 2)}) differed from the full model's."
    )


def _faster(exam: Exam, report: Report) -> str:
    if exam.speedup is None:
        return ""
    found, plain = f", and a worker was {exam.speedup:.2f} times as fast as PyTorch on this machine", report.plain
    if plain.name == PYTORCH or exam.speedup_plain is None or not plain.frames:
        return found
    return (
        f"{found} and {exam.speedup_plain:.2f} times as fast as {plain.name}, which differed from the model on "
        f"{_differed(plain, ' frames')}, with nothing that bounds it"
    )


def _differed(plain: Plain, unit: str = "") -> str:
    share = percent(plain.disagreements / plain.frames, 2) if plain.frames else DASH
    return f"{plain.disagreements:,} of {plain.frames:,}{unit} ({share})"


def _times(ratio: float | None) -> str:
    return DASH if ratio is None else f"{ratio:.2f} ×"


def _ratio(one: float | None, other: float | None) -> str:
    return _times(one / other if one and other else None)


def _heats(report: Report, name: str) -> str:
    """A runtime's frames per second over the other's, where there was no race but heats."""
    fps, other = report.plain.heats_fps, report.plain.name if name == PYTORCH else PYTORCH
    return _ratio(fps.get(name), fps.get(other))


def _fps(fps: float | None) -> str:
    return DASH if fps is None else f"{fps:,.0f}"


def _share(budget: Budget) -> str:
    return f"{100 * budget.max_disagreement:g} % disagreement"
