"""The report that people read: ``summary.md``."""

from collections.abc import Iterator

from layercache.measuring.summary import Shares, Summary, Version


def markdown(summary: Summary) -> str:
    """The whole report."""
    parts = (_verdict, _table, _classes, _versions, _race, _foot)
    return "\n".join((*(line for part in parts for line in part(summary)), ""))


def _verdict(summary: Summary) -> Iterator[str]:
    quarter = summary.last_quarter
    kept = "within" if quarter.disagreement <= summary.budget else "**over**"
    yield "# Layercache demo"
    yield ""
    yield f"{summary.frames:,} frames in {summary.seconds:.0f} s. {_gain(summary)}"
    yield ""
    yield (
        f"{quarter.disagreement:.2%} of its answers differed from the full model's, {kept} the budget of "
        f"{summary.budget:.2%} (confidence {summary.confidence:.0%}); accuracy {quarter.accuracy:.2%}, "
        f"the full model's {quarter.full_accuracy:.2%}."
    )
    yield ""
    yield "![Savings, disagreement and throughput over the stream](chart.png)"
    yield ""


def _gain(summary: Summary) -> str:
    quarter = summary.last_quarter
    if summary.race.heads_version is None:
        return "No exit was open at the end of the stream: a longer one gives the trainer more audits to certify with."
    return (
        f"In the last quarter of the stream {quarter.hit_rate:.1%} of the frames left early, {quarter.flops_saved:.1%} "
        f"of the FLOPs were saved, and a worker was {quarter.speedup:.2f} times as fast as with every exit closed."
    )


def _table(summary: Summary) -> Iterator[str]:
    quarter, whole = summary.last_quarter, summary.whole
    yield "| | last quarter | whole stream |"
    yield "|---|---|---|"
    rows = (
        ("frames", "frames", ",d"),
        ("left early (hit rate)", "hit_rate", ".1%"),
        ("FLOPs saved, heads counted", "flops_saved", ".1%"),
        ("answers that differ from the full model's", "disagreement", ".2%"),
        ("the same without audited frames", "unaudited_disagreement", ".2%"),
        ("accuracy", "accuracy", ".2%"),
        ("accuracy of the full model", "full_accuracy", ".2%"),
        ("audited", "audited", ".1%"),
    )
    for name, field, form in rows:
        yield f"| {name} | {_cell(quarter, field, form)} | {_cell(whole, field, form)} |"
    for exit_name in sorted({*quarter.exits, *whole.exits}):
        here, everywhere = quarter.exits.get(exit_name, 0.0), whole.exits.get(exit_name, 0.0)
        yield f"| answered at `{exit_name}` | {here:.1%} | {everywhere:.1%} |"
    yield ""
    yield (
        "All shares are over all frames, audited ones included. An audited frame runs the whole model and is answered "
        f"by it. The audits of open exits saw {summary.audits.disagreements} disagreements in "
        f"{summary.audits.frames:,} frames."
    )
    yield ""


def _classes(summary: Summary) -> Iterator[str]:
    yield "## By class"
    yield ""
    yield "The budget is for all frames together, so that one class may have most of it. The full model's, worst first:"
    yield ""
    yield "| class | differ, last quarter | frames, last quarter | audits that disagreed, whole stream |"
    yield "|---|---|---|---|"
    for one in summary.classes:
        yield (
            f"| {one.name} | {one.disagreement:.2%} | {one.frames:,} | {one.audit_disagreements} of {one.audits:,} |"
        )
    yield ""


def _versions(summary: Summary) -> Iterator[str]:
    yield "## Versions of heads"
    yield ""
    if not summary.versions:
        yield "None: too few frames were audited to certify an exit, so every frame ran the full path."
        yield ""
        return
    yield "| version | from frame | why | exits (share of FLOPs) | certified on | upper bound |"
    yield "|---|---|---|---|---|---|"
    yield from (_version(version) for version in summary.versions)
    yield ""


def _version(version: Version) -> str:
    exits = ", ".join(f"`{exit_.cut}` {exit_.family} ({exit_.flops_share:.0%})" for exit_ in version.exits)
    start = "answered none" if version.at_frame is None else f"{version.at_frame:,}"
    tested, bound = "", ""
    if version.certificate:
        tested = f"{version.certificate.disagreements} of {version.certificate.frames:,} frames"
        bound = f"{version.certificate.upper_bound:.2%}"
    return f"| `{version.version}` | {start} | {version.reason} | {exits or 'all closed'} | {tested} | {bound} |"


def _race(summary: Summary) -> Iterator[str]:
    race = summary.race
    heads = f"heads `{race.heads_version}`" if race.heads_version else "no heads"
    yield "## The race"
    yield ""
    yield (
        f"A worker's whole path (decode, engine, encode) over the last quarter's {race.frames:,} frames, in "
        f"micro-batches of {race.max_batch} on {race.torch_threads} thread(s), in turns: with {heads} and "
        f"{race.audit_rate:.1%} audits, and with every exit closed."
    )
    yield ""
    yield "| round | with exits, frames/s | closed, frames/s | ratio |"
    yield "|---|---|---|---|"
    for number, one in enumerate(race.rounds, 1):
        yield f"| {number} | {one.with_exits_fps:.0f} | {one.closed_fps:.0f} | {one.ratio:.2f} |"
    yield f"| median | {race.with_exits_fps:.0f} | {race.closed_fps:.0f} | **{race.speedup:.2f}** |"
    yield ""


def _foot(summary: Summary) -> Iterator[str]:
    machine = summary.machine
    yield (
        f"Model `{summary.model}`, seed {summary.seed}, {machine.cpus} CPUs, {machine.platform}, "
        f"Python {machine.python}, torch {machine.torch}. The processes' settings and logs lie beside this file."
    )


def _cell(shares: Shares, field: str, form: str) -> str:
    value = getattr(shares, field)
    return "–" if value is None else format(value, form)
