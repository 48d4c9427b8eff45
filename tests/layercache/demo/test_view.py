"""The terminal shows the stream live; where there is none, a line every few seconds."""

import io

from rich.console import Console

from layercache.demo.view import View, line, panel
from layercache.measuring.tally import Audit, Snapshot, Tally
from tests.layercache.demo_streams import answer, manifest

HEADS = manifest("v1", {"layer1": 0.3})


def a_snapshot() -> Snapshot:
    tally = Tally(frames=1_000, window=4)
    for frame in range(4):
        tally.add(answer(frame, "layer1" if frame else "full", HEADS, predicted_ms=100 * frame))
    tally.add_audits([Audit(0, offset, True, offset == 0) for offset in range(50)])
    return tally.snapshot()


def shown(terminal: bool) -> tuple[Console, io.StringIO]:
    output = io.StringIO()
    return Console(file=output, force_terminal=terminal, width=120), output


def test_a_line_says_how_the_stream_goes() -> None:
    text = line(a_snapshot())
    for part in ("4/1,000 frames", "10.0/s", "hits  75.0%", "audited disagreement 2.00% (1 of 50)", "heads v1"):
        assert part in text


def test_a_line_before_the_first_answer_makes_no_claims() -> None:
    text = line(Tally(frames=10).snapshot())
    assert "audited disagreement –" in text
    assert "heads none yet" in text


def test_without_a_terminal_lines_come_every_few_seconds_and_at_the_end() -> None:
    console, output = shown(terminal=False)
    now = [0.0]
    with View(console, budget=0.01, clock=lambda: now[0]) as view:
        for second in range(12):
            now[0] = float(second)
            view.stream(a_snapshot)
        view.stream(a_snapshot, last=True)
    assert output.getvalue().count("4/1,000 frames") == 4
    assert "\x1b[" not in output.getvalue()


def test_on_a_terminal_the_panel_is_drawn_over_itself() -> None:
    console, output = shown(terminal=True)
    now = [0.0]
    with View(console, budget=0.01, clock=lambda: now[0]) as view:
        view.stream(a_snapshot)
        now[0] = 1.0
        view.stream(a_snapshot, last=True)
    text = output.getvalue()
    assert text.count("Layercache demo") >= 2
    assert "\x1b[1A" in text, "the second panel did not take the first one's place"


def test_the_panel_holds_all_that_the_stream_is_watched_for() -> None:
    console, output = shown(terminal=False)
    console.print(panel(a_snapshot(), budget=0.01))
    text = output.getvalue()
    for part in (
        "4 of 1,000 frames",
        "hit rate",
        "75.0%",
        "layer1 75%",
        "FLOPs saved",
        "2.00% (1 of 50)",
        "budget 1.0%",
    ):
        assert part in text


def test_steps_are_announced_without_a_terminal_too() -> None:
    console, output = shown(terminal=False)
    with View(console, budget=0.01) as view, view.step("racing") as done:
        done(0.5)
    assert output.getvalue() == "racing …\n"
