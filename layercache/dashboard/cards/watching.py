"""Cards to watch: drift alarms, disagreement by class, lag by partition, and the workers."""

from layercache.dashboard import state
from layercache.dashboard.cards import parts
from layercache.dashboard.cards.parts import LocalTime, Part, box, text
from layercache.dashboard.heads_state import Alarm
from layercache.dashboard.words import count, milliseconds, percent, plural
from layercache.stream.kafka.offsets import PartitionLag

_ALARMS_SHOWN = 8
_CLASSES_SHOWN = 10
_PARTITIONS_SHOWN = 32
#: A bar is as long as this many records at least: a few that wait should not look like many.
_FULL_BAR = 100
_GROUPS = {"workers": "Workers", "trainer": "Trainer"}


class Alarms:
    """Drift that the trainer or a worker has noticed."""

    def __init__(self) -> None:
        content, _ = parts.card("Drift alarms", "lc-third")
        self._part = Part(content, _draw_alarms)

    def update(self, snapshot: state.Snapshot) -> None:
        """Shows the alarms."""
        self._part.show(snapshot.alarms)


class Classes:
    """The classes for which exits and full model differ most."""

    def __init__(self) -> None:
        content, _ = parts.card("Disagreement by class", "lc-third", "Audits of the version in force.")
        self._part = Part(content, _draw_classes)

    def update(self, snapshot: state.Snapshot) -> None:
        """Shows the classes that differ most."""
        self._part.show(snapshot.classes)


class Lags:
    """Records that wait, by partition."""

    def __init__(self) -> None:
        content, _ = parts.card("Lag by partition", "lc-third", "Records still to be read.")
        self._part = Part(content, _draw_lags)

    def update(self, snapshot: state.Snapshot) -> None:
        """Shows the groups."""
        self._part.show(snapshot.lags)


class Workers:
    """The workers, if the dashboard reads their metrics."""

    def __init__(self) -> None:
        content, _ = parts.card("Workers", "lc-half")
        self._part = Part(content, _draw_workers)

    def update(self, snapshot: state.Snapshot) -> None:
        """Shows the workers."""
        self._part.show((snapshot.workers, snapshot.metrics))


def _draw_alarms(alarms: tuple[Alarm, ...]) -> None:
    if not alarms:
        parts.empty("None: the audits give no reason to think that the stream has drifted.")
        return
    with box("ul", "lc-alarms"):
        for alarm in alarms[:_ALARMS_SHOWN]:
            with box("li", "lc-active" if alarm.active else ""):
                with box("p", "lc-alarm-head"):
                    text("active" if alarm.active else "over", "span", "lc-chip")
                    if alarm.at_ms is not None:
                        LocalTime(alarm.at_ms)
                text(alarm.message, "p")


def _draw_classes(classes: tuple[state.ClassDisagreement, ...]) -> None:
    if not classes:
        parts.empty("No audits of open exits yet.")
        return
    differing = [one for one in classes if one.disagreements]
    if not differing:
        parts.empty(f"None of {plural(sum(one.audits for one in classes), 'audit')} differs, whatever its class.")
        return
    top = max(one.disagreements / one.audits for one in differing)
    with box("table", "lc-table"):
        with box("thead"), box("tr"):
            for name in ("Class", "Differ", "Audits", "At most"):
                text(name, "th", "" if name == "Class" else "lc-figure-cell", scope="col")
        with box("tbody"):
            for one in differing[:_CLASSES_SHOWN]:
                share = one.disagreements / one.audits
                with box("tr"):
                    with box("td", "lc-class"):
                        text(one.name)
                        box("i", "lc-bar", aria_hidden="true").style(f"width:{share / top:.1%}")
                    text(f"{one.disagreements:,}", "td", "lc-figure-cell")
                    text(f"{one.audits:,}", "td", "lc-figure-cell")
                    text(percent(one.upper_bound), "td", "lc-figure-cell")


def _draw_lags(lags: tuple[state.GroupLag, ...]) -> None:
    if not lags:
        parts.empty("No group is known yet. Start a worker:", "layercache worker")
        return
    for group in lags:
        with box("div", "lc-group"):
            with box("p", "lc-group-head"):
                text(_GROUPS[group.who], "strong")
                wait = "" if group.seconds is None else f", {milliseconds(group.seconds * 1_000)} of work"
                text(f"{plural(group.total, 'record')} of {group.topic}{wait}")
            top = max(_FULL_BAR, *(one.lag for one in group.partitions), 0)
            with box("ul", "lc-lags"):
                for one in group.partitions[:_PARTITIONS_SHOWN]:
                    with box("li", title=_where(one)):
                        text(str(one.partition), "span", "lc-partition", aria_label=f"partition {one.partition}")
                        with box("span", "lc-track", aria_hidden="true"):
                            box("i", "lc-bar").style(f"width:{one.lag / top:.1%}")
                        text(count(one.lag), "span", "lc-figure-cell")
            hidden = len(group.partitions) - _PARTITIONS_SHOWN
            if hidden > 0:
                text(f"and {plural(hidden, 'partition')} more", "p", "lc-hint")


def _where(one: PartitionLag) -> str:
    committed = "never committed" if one.committed is None else f"committed up to {one.committed:,}"
    return f"{committed}, end {one.end:,}"


def _draw_workers(shown: tuple[tuple[state.Worker, ...], bool]) -> None:
    workers, has_metrics = shown
    if not has_metrics:
        parts.empty(
            "Their metrics are not read. Say where they are:", "layercache dashboard --metrics http://HOST:9100"
        )
        return
    if not workers:
        parts.empty("None answers. Are they running, with a metrics port?", "layercache worker --metrics-port 9100")
        return
    with box("table", "lc-table lc-workers"):
        with box("thead"), box("tr"):
            for name in ("Worker", "State", "Heads", "Answered", "Behind"):
                text(name, "th", scope="col")
        with box("tbody"):
            for worker in workers:
                with box("tr"):
                    text(worker.target, "td", data_label="Worker")
                    with box("td", data_label="State"):
                        for name, classes in _states(worker):
                            text(name, "span", f"lc-chip {classes}")
                    text(worker.version or "none", "td", "lc-code", data_label="Heads")
                    text(plural(worker.frames, "frame"), "td", data_label="Answered")
                    text(milliseconds(worker.lag_seconds * 1_000), "td", data_label="Behind")


def _states(worker: state.Worker) -> list[tuple[str, str]]:
    found = [
        (worker.exits_closed, "exits closed by its guard", "lc-chip-bad"),
        (worker.overload_closed, "overload closed by its guard", "lc-chip-bad"),
        (worker.overload, "overload", "lc-chip-warn"),
        (worker.store_errors > 0, plural(worker.store_errors, "store error"), "lc-chip-warn"),
        (worker.heads_refused > 0, f"{plural(worker.heads_refused, 'version')} refused", "lc-chip-warn"),
        (worker.distillation_share < 1.0, f"sends {percent(worker.distillation_share, 0)} of misses", "lc-chip-warn"),
    ]
    return [(name, classes) for is_so, name, classes in found if is_so] or [("serving", "")]
