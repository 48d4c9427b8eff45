"""A file system for ``fsspec`` under ``fickle://`` that hangs, fails and lies, as told."""

import io
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import fsspec
from fsspec.spec import AbstractFileSystem

NAME = "fickle"


class Fickle(AbstractFileSystem):  # type: ignore[misc]  # fsspec ships no types
    """Its behaviour is the class's: whoever makes an instance gets the same store."""

    protocol = NAME
    files: ClassVar[dict[str, bytes]] = {}
    #: name -> how many times it fails before it is read
    failures: ClassVar[Counter[str]] = Counter()
    #: name -> the size that it gives itself, None for no size
    sizes: ClassVar[dict[str, int | None]] = {}
    #: names that hang until :attr:`released`
    hanging: ClassVar[set[str]] = set()
    released = threading.Event()
    #: seconds that every read takes until then
    delay_s: ClassVar[float] = 0.0
    #: name -> how many times it was opened
    opened: ClassVar[Counter[str]] = Counter()
    #: how many reads are under way, and how many there ever were at the same time
    under_way = 0
    most_under_way = 0
    lock = threading.Lock()

    def _open(self, path: str, mode: str = "rb", **options: Any) -> "FickleFile":
        cls = type(self)
        name = path.removeprefix(f"{NAME}://")
        with cls.lock:
            cls.opened[name] += 1
            cls.under_way += 1
            cls.most_under_way = max(cls.most_under_way, cls.under_way)
        try:
            if name in cls.hanging:
                cls.released.wait(60)
            cls.released.wait(cls.delay_s)
            if cls.failures[name] > 0:
                cls.failures[name] -= 1
                raise ConnectionError(f"no connection as {self.storage_options}")
            if name not in cls.files:
                raise FileNotFoundError(path)
            return FickleFile(cls.files[name], cls.sizes.get(name, len(cls.files[name])))
        finally:
            with cls.lock:
                cls.under_way -= 1


class FickleFile(io.BytesIO):
    """A file that says it has ``size`` bytes."""

    def __init__(self, data: bytes, size: int | None) -> None:
        super().__init__(data)
        self.size = size


@contextmanager
def fickle_store(**files: bytes) -> Iterator[type[Fickle]]:
    """A store of its own for a test: ``fickle://bucket/NAME`` for each of ``files``; in the end nothing hangs."""
    fsspec.register_implementation(NAME, Fickle, clobber=True)
    Fickle.files = {f"bucket/{name}": data for name, data in files.items()}
    Fickle.failures, Fickle.sizes, Fickle.hanging = Counter(), {}, set()
    Fickle.released, Fickle.opened = threading.Event(), Counter()
    Fickle.delay_s = 0.0
    Fickle.under_way = Fickle.most_under_way = 0
    try:
        yield Fickle
    finally:
        Fickle.released.set()
