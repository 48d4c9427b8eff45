"""The page: one HTML file with everything in it, to open anywhere and to send on."""

from pathlib import Path

import jinja2
from markupsafe import Markup

from layercache.presenting.savings import flops_saved, is_precision
from layercache.report import plots, words
from layercache.report.numbers import Report

_TEMPLATE = Path(__file__).with_name("page.html.jinja")


def render(report: Report) -> str:
    """The page's HTML. Names of files, classes and cuts are the user's: they are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = words.percent
    environment.filters["flops"] = lambda saved: flops_saved(saved, words.percent)
    environment.tests["precision"] = is_precision
    return environment.get_template(_TEMPLATE.name).render(
        report=report,
        verdict=words.verdict(report),
        sides=words.sides(report),
        rows=[(budget, words.budget_row(budget)) for budget in report.budgets],
        plots={
            name: Markup(draw(report))
            for name, draw in {
                "trade_off": plots.trade_off,
                "stream": plots.stream,
                "disagreement": plots.disagreement,
                "costs": plots.costs,
            }.items()
        },
    )


def write(report: Report, path: Path) -> None:
    """Writes the page, replacing an earlier one."""
    path.write_text(render(report), encoding="utf-8")
