"""The versions of heads, what each changed, and the buttons that choose which one workers use."""

from layercache.dashboard import state
from layercache.dashboard.cards import parts
from layercache.dashboard.cards.actions import Actions, Order
from layercache.dashboard.cards.parts import LocalTime, Part, box, text
from layercache.dashboard.heads_state import Heads, Version
from layercache.dashboard.words import NOTHING, percent
from layercache.presenting.savings import flops_saved

_SHOWN = 12
_REASONS = {
    "first": "the first that was good enough",
    "better": "saves more",
    "unsafe": "the exits had exceeded their budget",
    "overload-unsafe": "overload had exceeded its budget",
    "operator": "an operator's",
}
_COLUMNS = ("Version", "Published", "Why", "What changed", "Hits", "Time saved", "FLOPs saved", "Differs at most")


class Versions:
    """A table of versions, newest first."""

    def __init__(self, actions: Actions | None) -> None:
        self._actions = actions
        content, controls = parts.card("Versions of heads", "lc-wide")
        self._buttons = Part(controls, self._draw_buttons)
        self._part = Part(content, self._draw)

    def update(self, snapshot: state.Snapshot) -> None:
        """Shows the store's versions."""
        self._buttons.show(snapshot.heads)
        self._part.show(snapshot.heads)

    def _draw_buttons(self, heads: Heads) -> None:
        if self._actions is None or not (heads.versions or heads.pinned):
            return
        before = _before_latest(heads)
        if before is not None and not heads.pinned:  # a pin overrides the latest version: unpin first
            self._actions.button(Order("roll back", "Roll back", before))
        if heads.pinned:
            self._actions.button(Order("unpin", "Open exits again" if heads.closed else "Unpin", None))
        if not heads.closed:
            self._actions.button(Order("close", "Close all exits", None))

    def _draw(self, heads: Heads) -> None:
        if not heads.versions:
            parts.empty("No version yet. The trainer publishes one when it can certify it:", "layercache trainer")
            return
        with box("p", "lc-inforce"):
            text("In force:", "strong")
            text(heads.sentence)
        with box("table", "lc-table lc-versions"):
            with box("thead"), box("tr"):
                for name in (*_COLUMNS, *(("",) if self._actions else ())):
                    text(name, "th", scope="col")
            with box("tbody"):
                for version in heads.versions[:_SHOWN]:
                    self._draw_version(version, heads)
        hidden = len(heads.versions) - _SHOWN
        more = f" {hidden} older ones are in the store." if hidden > 0 else ""
        text(f"{heads.attempts} attempts to certify so far.{more}", "p", "lc-hint")

    def _draw_version(self, version: Version, heads: Heads) -> None:
        with box("tr", "lc-live" if version.live else ""):
            with box("td", data_label="Version"):
                text(version.version, "code")
                for is_so, name in ((version.live, "live"), (version.pinned, "pinned"), (version.latest, "latest")):
                    if is_so:
                        text(name, "span", f"lc-chip lc-chip-{name}")
            with box("td", data_label="Published"):
                if version.created_ms is None:
                    text("not known")
                else:
                    LocalTime(version.created_ms)
            text(_REASONS.get(version.reason, version.reason), "td", data_label="Why")
            text(version.changes.summary or "nothing", "td", data_label="What changed")
            flops = NOTHING if version.flops_saved is None else flops_saved(version.flops_saved, percent)
            figures = (percent(version.hit_rate), percent(version.time_saved), flops)
            for name, figure in zip(_COLUMNS[4:7], figures, strict=True):
                text(figure, "td", "lc-figure-cell", data_label=name)
            text(percent(version.upper_bound, 2), "td", "lc-figure-cell", data_label=_COLUMNS[7])
            if self._actions:
                with box("td", "lc-row-actions"):
                    if not version.latest:
                        self._actions.button(Order("roll back", "Roll back to this", version.version), small=True)
                    if not version.pinned:
                        self._actions.button(Order("pin", "Pin", version.version), small=True)


def _before_latest(heads: Heads) -> str | None:
    """Where a rollback without a version goes (:meth:`layercache.early_exit.store.head_store.HeadStore.rollback`);
    None if there is no such version."""
    names = [version.version for version in heads.versions]
    if heads.latest not in names:
        return None
    place = names.index(heads.latest)
    predecessor = heads.versions[place].predecessor
    return predecessor if predecessor in names else next(iter(names[place + 1 :]), None)
