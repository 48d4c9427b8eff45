"""A version of heads, ready to serve."""

from dataclasses import dataclass

from torch import nn

from layercache.early_exit.compiled.graphs import CompiledGraph
from layercache.schemas.manifest import Manifest


@dataclass(frozen=True)
class CacheHeads:
    """A version's exits: modules on the model's own cuts, or the pieces of a compiled path."""

    manifest: Manifest
    modules: tuple[nn.Module, ...]
    """A head in eval mode for each of the manifest's exits; none where the path is compiled."""
    chain: tuple[CompiledGraph, ...] | None = None
    """The pieces of a compiled path, one for each exit, with their heads in them."""
