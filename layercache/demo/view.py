"""What the terminal shows while the demo runs: a live panel, or plain lines where there is no terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from layercache.measuring.tally import Snapshot
from layercache.presenting.savings import flops_saved

_PLAIN_EVERY_S = 5.0
_LIVE_EVERY_S = 0.25
_BLOCKS = " ▁▂▃▄▅▆▇█"


def line(snapshot: Snapshot) -> str:
    """The stream's state in a line."""
    return (
        f"{snapshot.answered:>6,}/{snapshot.frames:,} frames  {snapshot.frames_per_s:5.1f}/s  "
        f"hits {snapshot.hit_rate:6.1%}  time saved {snapshot.time_saved:6.1%}  "
        f"FLOPs saved {flops_saved(snapshot.flops_saved):>6}  "
        f"audited disagreement {_audits(snapshot)}  heads {snapshot.version or 'none yet'}"
    )


def sparkline(values: tuple[float, ...]) -> str:
    """Shares as a row of blocks.

    >>> sparkline((0.0, 0.5, 1.0))
    ' ▄█'
    """
    return "".join(_BLOCKS[round(min(max(value, 0.0), 1.0) * (len(_BLOCKS) - 1))] for value in values)


def panel(snapshot: Snapshot, budget: float) -> RenderableType:
    """The stream's state as a panel."""
    top = Table.grid(padding=(0, 2), expand=True)
    top.add_column(ratio=1)
    top.add_column(justify="right")
    top.add_row(
        ProgressBar(total=snapshot.frames, completed=snapshot.answered),
        f"{snapshot.answered:,} of {snapshot.frames:,} frames · {snapshot.frames_per_s:.1f}/s",
    )
    table = Table.grid(padding=(0, 3))
    table.add_column(style="dim", justify="right")
    table.add_column(style="bold", min_width=9)
    table.add_column(style="dim")
    exits = ", ".join(f"{name} {share:.0%}" for name, share in sorted(snapshot.hits_by_exit.items()))
    recent = f"of the last {snapshot.window:,}"
    table.add_row("hit rate", f"[blue]{snapshot.hit_rate:.1%}[/]", f"{recent}: {exits or 'none'}")
    table.add_row("over the stream", Text(sparkline(snapshot.history), style="blue"), "")
    table.add_row("time saved", f"[cyan]{snapshot.time_saved:.1%}[/]", f"{recent}, by the trainer's clock")
    table.add_row("FLOPs saved", f"[cyan]{flops_saved(snapshot.flops_saved)}[/]", recent)
    table.add_row("audited", f"{snapshot.audited:.1%}", "run the whole model to watch the exits")
    over = (snapshot.audited_disagreement or 0.0) > budget
    table.add_row(
        "disagreement", Text(_audits(snapshot), style="yellow" if over else "green"), f"in audits; budget {budget:.1%}"
    )
    table.add_row("heads", snapshot.version or "none yet", f"{snapshot.versions} taken up so far")
    return Panel(Group(top, Text(), table), title="Layercache demo", border_style="blue", padding=(1, 2))


class View:
    """Shows the demo's progress: a live panel on a terminal, a plain line every few seconds elsewhere."""

    def __init__(
        self, console: Console, budget: float, plain: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._budget = budget
        self._plain = plain or not console.is_terminal
        self._clock = clock
        self._shown_at = -1e9
        self._live: Live | None = None

    def __enter__(self) -> "View":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_live()

    def say(self, text: str) -> None:
        """A line of its own, for what is done once."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def stream(self, snapshot: Callable[[], Snapshot], last: bool = False) -> None:
        """Shows the stream, if the last time is long enough ago or it is the ``last`` time."""
        due = self._clock() - self._shown_at >= (_PLAIN_EVERY_S if self._plain else _LIVE_EVERY_S)
        if not due and not last:
            return
        self._shown_at = self._clock()
        if self._plain:
            self.say(line(snapshot()))
            return
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(panel(snapshot(), self._budget), refresh=True)
        if last:
            self._end_live()

    @contextmanager
    def step(self, what: str) -> Iterator[Callable[[float], None]]:
        """Shows that ``what`` is going on; the caller reports the share that is done."""
        if self._plain:
            self.say(f"{what} …")
            yield lambda done: None
            return
        with self._console.status(what) as status:
            yield lambda done: status.update(f"{what} {done:.0%}")
        self.say(f"{what}: done")

    def _end_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _audits(snapshot: Snapshot) -> str:
    share = snapshot.audited_disagreement
    return "–" if share is None else f"{share:.2%} ({snapshot.audit_disagreements} of {snapshot.audits:,})"
