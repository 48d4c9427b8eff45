"""Python's collector of cycles, kept away from the frames."""

import atexit
import gc

#: New objects between two collections. Frames are freed by their reference counts; cycles come from rare things alone,
#: errors and new heads among them.
_EVERY_OBJECTS = 100_000


def collect_seldom() -> None:
    """Collects once, sets what is alive aside for good, and collects what comes after more seldom.

    By default every few hundred records read walk the collector through the records in flight, and every so often
    through all of torch: a fourth of the processor time of small frames. Call it once the model is there.
    """
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # else extensions that look for leaks report all of theirs
    gc.set_threshold(_EVERY_OBJECTS)
