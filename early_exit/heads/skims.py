"""Skimming: runs the rest of a model after a cut on a smaller map, without the blocks that it can do without.

A few thousand frames teach a small network little; the model's own later layers were taught with all of the model's
data. A *skim* runs copies of them from a cut to the end, at half the resolution. It leaves out blocks whose output has
the shape of their input: in residual networks such a block only refines its input (Huang, Sun, Liu, Sedra, Weinberger
2016, "Deep Networks with Stochastic Depth"). A skim costs a tenth of the rest of the model, and a short distillation
brings the copies back to the model's answers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from layercache.early_exit.cutting.cuts import Cut, TracedModel

#: A skim keeps every interval of the model that is cheaper than this share of its FLOPs (an activation, a pooling).
_WORTH_SKIPPING = 0.005

#: Stands for the end of the model in a path.
END = ""

Path = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Interval:
    start: str
    stop: str
    flops_share: float
    skippable: bool


def skim_path(traced: TracedModel, cut: str, keep: int = 0, keep_here: int = 0) -> Path:
    """The pieces of the model that a skim from ``cut`` runs: pairs of cuts, ``END`` for the model's end.

    Of every run of blocks that keep their value's shape the skim keeps the first ``keep``; of a run that begins at the
    cut itself the last ``keep_here`` (the blocks before them are those that a later cut would have run). The path is
    split at the model's last vector, so that a skim can be taught the model's value there. Raises
    :class:`layercache.early_exit.cutting.cuts.CutError` for an unknown cut.

    >>> skim_path(traced, "layer2")
    (('layer2', 'layer3.0'), ('layer3', 'layer4.0'), ('layer4', 'flatten'), ('flatten', ''))
    """
    kept: list[_Interval] = []
    for run in _runs(list(_intervals(traced, traced.cut(cut)))):
        if not run[0].skippable:
            kept += run
        elif run[0].start == cut:
            kept += run[max(0, len(run) - keep_here) :]
        else:
            kept += run[:keep]
    path: list[tuple[str, str]] = []
    for interval in kept:
        if path and path[-1][1] == interval.start:
            path[-1] = (path[-1][0], interval.stop)
        else:
            path.append((interval.start, interval.stop))
    return _before_the_last_vector(traced, path)


def _before_the_last_vector(traced: TracedModel, path: list[tuple[str, str]]) -> Path:
    """The path, its last piece split at the model's last vector if that lies inside the piece."""
    names = [one.name for one in traced.cuts]
    start, stop = path[-1]
    inside = [one.name for one in traced.cuts[names.index(start) + 1 :] if one.layout == "vector"]
    if inside:
        return (*path[:-1], (start, inside[-1]), (inside[-1], stop))
    return tuple(path)


def path_flops_share(traced: TracedModel, path: Path) -> float:
    """The pieces' cost at full resolution, as a share of the model's FLOPs. Raises ``KeyError`` for an unknown cut.

    >>> round(path_flops_share(traced, skim_path(traced, "layer2")), 2)
    0.23
    """
    share = {one.name: one.flops_share for one in traced.cuts} | {END: 1.0}
    return sum(share[stop] - share[start] for start, stop in path)


def path_weights(traced: TracedModel, path: Path) -> int:
    """The number of weights in the copies on a path.

    >>> path_weights(traced, (("layer4", END),))
    2570
    """
    bounds = [[start] if stop == END else [start, stop] for start, stop in path]
    return sum(weight.numel() for names in bounds for weight in traced.segments(names)[1].parameters())


def _intervals(traced: TracedModel, cut: Cut) -> Iterator[_Interval]:
    """From ``cut`` to the end, block by block."""
    after = [block for block in traced.blocks if traced.cuts.index(block) > traced.cuts.index(cut)]
    before = cut
    for block in after:
        share = block.flops_share - before.flops_share
        same = (block.shape, block.layout) == (before.shape, before.layout)
        yield _Interval(before.name, block.name, share, same and share >= _WORTH_SKIPPING)
        before = block
    yield _Interval(before.name, END, 1 - before.flops_share, False)


def _runs(intervals: list[_Interval]) -> Iterator[list[_Interval]]:
    """Groups of neighbours that are all skippable, or all not."""
    run: list[_Interval] = []
    for interval in intervals:
        if run and run[-1].skippable != interval.skippable:
            yield run
            run = []
        run.append(interval)
    if run:
        yield run
