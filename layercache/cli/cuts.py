"""``layercache cuts``: where a model can be cut, and what was spent by then."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from layercache.cli import common

if TYPE_CHECKING:
    from early_exit.costs import CostTable


def command(
    config: common.Config = None,
    model: common.Model = None,
    weights: common.Weights = None,
    metadata: common.Metadata = None,
    device: common.Device = None,
    dtype: common.Dtype = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Lists where a model can be cut, with the shares of FLOPs and of measured time spent by then.

    Those marked with * are the ones that the trainer tries heads at.

    \b
    Example:
      layercache cuts --model torchvision:resnet50
      layercache cuts --model my_model.py:build --json | jq -r '.cuts[] | select(.proposed).name'
    """
    settings = common.load_settings(
        config,
        model={"spec": model, "weights": weights, "metadata": metadata, "device": device, "dtype": dtype},
    )
    from early_exit import costs, cuts, models

    try:
        traced = cuts.trace(models.load(settings.model), settings.trainer.max_cuts)
    except (models.ModelError, cuts.CutError) as error:
        common.fail(f"error: {error}", common.WRONG_USAGE)
    table = costs.cost_table(traced)
    if as_json:
        typer.echo(json.dumps(asdict(table), indent=2))
    else:
        _print(table)


def _print(costs: "CostTable") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "cut", "shape", "FLOPs before it", "time before it", box=None, header_style="bold")
    for cut in costs.cuts:
        mark, style = ("*", "bold") if cut.proposed else ("", None)
        shape = "×".join(map(str, cut.shape))
        table.add_row(mark, cut.name, shape, f"{cut.flops_share:.1%}", f"{cut.time_share:.1%}", style=style)
    console = Console()
    console.print(table)
    console.print(
        f"\n{costs.model}: {costs.flops / 1e9:.3g} GFLOPs and {costs.frame_ms:.3g} ms a frame; * proposed",
        markup=False,
    )
