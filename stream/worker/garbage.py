"""Python's collector of cycles, kept away from the frames."""

import atexit
import gc

#: New objects between two collections. Reference counts free the frames; only rare things make cycles, errors and new
#: heads among them.
_EVERY_OBJECTS = 100_000


def collect_seldom() -> None:
    """Collects once, exempts what is alive for good, and makes Python collect later objects more seldom.

    By default the collector walks through the records in flight after every few hundred records read, and now and then
    through all of torch: a fourth of the processor time of small frames. Call this once the model is there.
    """
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # otherwise extensions that look for leaks report all their objects
    gc.set_threshold(_EVERY_OBJECTS)
