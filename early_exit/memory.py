"""Memory over weeks: what was freed stays ready for the next micro-batch, and what nothing needs is let go."""

import ctypes
import linecache

from torch.fx import graph_module

#: `mallopt`'s numbers, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: How much freed memory may stay with the process, and the largest block that comes from there.
_KEEP_BYTES = 1 << 30
#: What glibc before 2.35 takes at most as the largest block.
_OLD_LIMIT_BYTES = 1 << 25


def keep_freed_memory() -> bool:
    """Has malloc keep up to 1 GiB of freed memory; False where it is not glibc's, and nothing was changed.

    Every layer's maps are allocated and freed anew. By default glibc gives blocks of megabytes back to the kernel,
    which clears each page again for the next layer: that took 8 to 22 % of the processor time of batches of 32 on the
    backbones of ``benchmarks.engine``, and more of larger ones. Call it once, before the first batch. See mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # no such C library: macOS, Windows, musl
        return False
    if mallopt(_TRIM_THRESHOLD, _KEEP_BYTES) != 1:
        return False
    return any(mallopt(_MMAP_THRESHOLD, limit) == 1 for limit in (_KEEP_BYTES, _OLD_LIMIT_BYTES))


def forget_generated_sources() -> None:
    """Lets go of the source text of all modules that ``torch.fx`` has generated.

    It keeps them for ever, to show them in tracebacks, and every version of heads brings new segments: a few kilobytes
    each of a small model, a hundred of a large one. The modules themselves are not touched.

    >>> forget_generated_sources()
    """
    loader = getattr(graph_module, "_loader", None)  # private: where another release has none, there is nothing to do
    for name in list(getattr(loader, "eval_cache", ())):
        linecache.cache.pop(name, None)
        loader.eval_cache.pop(name, None)  # type: ignore[union-attr]
