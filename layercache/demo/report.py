"""The report that people read: ``summary.md``."""

from collections.abc import Iterator

from layercache.measuring.plain_runtimes import PYTORCH
from layercache.measuring.summary import OpenExit, Quarter, Shares, Summary, Version
from layercache.presenting.savings import flops_saved, is_precision, time_and_flops
from layercache.schemas.prediction import FULL


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
    quarter, race = summary.last_quarter, summary.race
    if race.heads_version is None:
        return "No exit was open at the end of the stream: a longer one gives the trainer more audits to certify with."
    first = "" if summary.first_version_frame is None else (
        f"The first exits opened at frame {summary.first_version_frame:,}. "
    )  # fmt: skip
    return (
        f"{first}In the last quarter of the stream {quarter.hit_rate:.1%} of the frames left at an exit, "
        f"{time_and_flops(quarter.time_saved, quarter.flops_saved)}, and a worker was **{quarter.speedup:.2f} times** "
        f"as fast as the model by PyTorch, {_against_plain(quarter)}"
    )


def _against_plain(quarter: Quarter) -> str:
    if quarter.plain_runtime == PYTORCH:
        return "which is also the best plain runtime here."
    return (
        f"and **{quarter.speedup_plain:.2f} times** as fast as the best plain runtime, {quarter.plain_runtime}, which "
        f"gave another answer than the model to {quarter.plain_disagreement:.2%} of the frames, with nothing that "
        "bounds it."
    )


def _table(summary: Summary) -> Iterator[str]:
    quarter, whole = summary.last_quarter, summary.whole
    yield "| | last quarter | whole stream |"
    yield "|---|---|---|"
    rows = (
        ("frames", "frames", ",d"),
        ("left at an exit (hit rate)", "hit_rate", ".1%"),
        ("time saved, by the trainer's clock", "time_saved", ".1%"),
        ("FLOPs saved, heads counted", "flops_saved", ""),
        ("answers that differ from the full model's", "disagreement", ".2%"),
        ("the same without audited frames", "unaudited_disagreement", ".2%"),
        ("accuracy", "accuracy", ".2%"),
        ("accuracy of the full model", "full_accuracy", ".2%"),
        ("audited", "audited", ".1%"),
    )
    for name, field, form in rows:
        yield f"| {name} | {_cell(quarter, field, form)} | {_cell(whole, field, form)} |"
    for exit_name in sorted({*quarter.exits, *whole.exits}, key=_place):
        here, everywhere = quarter.exits.get(exit_name, 0.0), whole.exits.get(exit_name, 0.0)
        yield f"| answered {_where(exit_name)} | {here:.1%} | {everywhere:.1%} |"
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
    yield "| version | from frame | why | exits (share of time, of FLOPs) | certified on | upper bound |"
    yield "|---|---|---|---|---|---|"
    yield from (_version(version) for version in summary.versions)
    yield ""


def _version(version: Version) -> str:
    exits = ", ".join(_exit(exit_) for exit_ in version.exits)
    start = "answered none" if version.at_frame is None else f"{version.at_frame:,}"
    tested, bound = "", ""
    if version.certificate:
        tested = f"{version.certificate.disagreements} of {version.certificate.frames:,} frames"
        bound = f"{version.certificate.upper_bound:.2%}"
    return f"| `{version.version}` | {start} | {version.reason} | {exits or 'all closed'} | {tested} | {bound} |"


def _exit(exit_: OpenExit) -> str:
    what = "the whole model" if is_precision(exit_.cut) else exit_.family
    return f"`{exit_.cut}` {what} ({exit_.time_share:.0%}, {exit_.flops_share:.0%})"


def _race(summary: Summary) -> Iterator[str]:
    race = summary.race
    heads = f"heads `{race.heads_version}`" if race.heads_version else "no heads"
    rival = race.plain.name != PYTORCH
    yield "## The race"
    yield ""
    yield (
        f"A worker's whole path (decode, engine, encode) over the last quarter's {race.frames:,} frames, in "
        f"micro-batches of {race.max_batch} on {race.torch_threads} thread(s), in turns: with {heads} and "
        f"{race.audit_rate:.1%} audits, with every exit closed, which is the model by PyTorch, and by the best plain "
        f"runtime. {_rivals(summary)}"
    )
    yield ""
    plain = f" {race.plain.name}, frames/s | ratio |" if rival else ""
    yield f"| round | with exits, frames/s | PyTorch, frames/s | ratio |{plain}"
    yield "|---|---|---|---|" + ("---|---|" if rival else "")
    for number, one in enumerate(race.rounds, 1):
        plain = f" {one.plain_fps:.0f} | {one.ratio_plain:.2f} |" if rival else ""
        yield f"| {number} | {one.with_exits_fps:.0f} | {one.closed_fps:.0f} | {one.ratio:.2f} |{plain}"
    plain = f" {race.plain_fps:.0f} | **{race.speedup_plain:.2f}** |" if rival else ""
    yield f"| median | {race.with_exits_fps:.0f} | {race.closed_fps:.0f} | **{race.speedup:.2f}** |{plain}"
    yield ""


def _rivals(summary: Summary) -> str:
    plain = summary.race.plain
    note = f" ({plain.note})" if plain.note else ""
    if not plain.heats_fps:
        return f"That is PyTorch itself here{note}."
    heats = ", ".join(f"{name} {fps:.0f}" for name, fps in plain.heats_fps.items())
    return (
        f"That is {plain.name}, the whole model without exits, by short heats (frames/s: {heats}){note}. It has no "
        f"certificate, and gave another answer than the model to {plain.disagreement:.2%} of these frames."
    )


def _foot(summary: Summary) -> Iterator[str]:
    machine = summary.machine
    yield (
        f"Model `{summary.model}`, seed {summary.seed}, {machine.cpus} CPUs, {machine.platform}, "
        f"Python {machine.python}, torch {machine.torch}. The processes' settings and logs lie beside this file."
    )


def _place(exit_name: str) -> tuple[int, str]:
    """Exits on cuts by name, then the model in another precision, then the model itself."""
    return (2 if exit_name == FULL else int(is_precision(exit_name))), exit_name


def _where(exit_name: str) -> str:
    if exit_name == FULL:
        return "by the full model"
    return f"by the model in `{exit_name}`" if is_precision(exit_name) else f"at `{exit_name}`"


def _cell(shares: Shares, field: str, form: str) -> str:
    value = getattr(shares, field)
    if field == "flops_saved":
        return flops_saved(value)
    return "–" if value is None else format(value, form)
