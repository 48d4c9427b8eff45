"""``layercache cuts``: where a model can be cut, and its cost up to each cut."""

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from layercache.cli import common
from layercache.cli.options import MODEL, with_settings

if TYPE_CHECKING:
    from layercache.early_exit.cutting.costs import CostTable
    from layercache.early_exit.cutting.layouts import Layout
    from layercache.schemas.settings import Settings


#: A pipe has no width, and the table must not cut off names.
_PIPED_WIDTH = 200


@with_settings(*MODEL)
def command(
    settings: "Settings",
    only_proposed: Annotated[
        bool, typer.Option("--proposed", help="Only the cuts that the trainer tries heads at.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Lists where a model can be cut, with the shares of FLOPs and of measured time spent by then.

    Those marked with * are the ones that the trainer tries heads at. A shape is one frame's: C×H×W or H×W×C for maps,
    T×D for tokens, D for a vector.

    \b
    Example:
      layercache cuts --model torchvision:resnet50
      layercache cuts --model timm:convnext_tiny --proposed
      layercache cuts --model my_model.py:build --json | jq -r '.cuts[] | select(.proposed).name'
    """
    from layercache.early_exit.cutting import costs, cuts
    from layercache.early_exit.model import loading

    try:
        traced = cuts.trace(loading.load(settings.model), settings.trainer.max_cuts)
    except (loading.ModelError, cuts.CutError) as error:
        common.fail(f"error: {error}", common.WRONG_USAGE)
    table = costs.cost_table(traced)
    layouts: dict[str, Layout] = {cut.name: cut.layout for cut in traced.cuts}
    places = len(table.cuts)
    if only_proposed:
        table = replace(table, cuts=tuple(cut for cut in table.cuts if cut.proposed))
    if as_json:
        described = asdict(table)
        described["cuts"] = [cut | {"layout": layouts[cut["name"]]} for cut in described["cuts"]]
        typer.echo(json.dumps(described, indent=2))
    else:
        _print(table, layouts, places)


def _print(costs: "CostTable", layouts: "dict[str, Layout]", places: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", box=None, header_style="bold")
    table.add_column("cut", overflow="fold")  # users copy names, so they must be complete
    table.add_column("shape")
    table.add_column("layout")
    table.add_column("FLOPs before it", justify="right")
    table.add_column("time before it", justify="right")
    for cut in costs.cuts:
        mark, style = ("*", "bold") if cut.proposed else ("", None)
        shape = "×".join(map(str, cut.shape))
        table.add_row(
            mark, cut.name, shape, layouts[cut.name], f"{cut.flops_share:.1%}", f"{cut.time_share:.1%}", style=style
        )
    console = Console()
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    console.print(table)
    proposed = sum(cut.proposed for cut in costs.cuts)
    console.print(
        f"\n{costs.model}: {costs.flops / 1e9:.3g} GFLOPs and {costs.frame_ms:.3g} ms a frame; {places} cuts, "
        f"{proposed} of them proposed (*)",
        markup=False,
        soft_wrap=True,
    )
