"""Where published frames come from: a folder or a zip of pictures, a video file, a webcam; one picture at a time."""

import copy
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, Self
from urllib.parse import quote

if TYPE_CHECKING:
    from av.container import InputContainer

#: Content type of a picture by the end of its file's name.
CONTENT_TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".npy": "application/x-npy",
}

_JPEG_QUALITY = 90
_WEBCAM = re.compile(r"webcam(?::(\d+))?")


class SourceError(ValueError):
    """A source that cannot be read; the message says what to give instead."""


@dataclass(frozen=True)
class Picture:
    """One picture, as it will travel."""

    name: str
    """Unique within one pass over the source."""
    value: bytes
    content_type: str
    time: datetime | None = None
    """When it was taken, where the source knows."""
    reference: str | None = None
    """Where it lies, if it does not travel itself: then it has no value."""


@dataclass(frozen=True)
class Skipped:
    """A picture that cannot be published, and why."""

    name: str
    why: str


class PictureSource(Protocol):
    """What can be published."""

    @property
    def uri(self) -> str:
        """What the frames' ``ce_source`` says: a URI reference."""

    @property
    def key(self) -> str | None:
        """The frames' key where the user gives none; None where the pictures are independent of each other."""

    @property
    def total(self) -> int | None:
        """How many pictures there are; None where that is not known beforehand."""

    @property
    def live(self) -> bool:
        """True where pictures that are not taken in time are lost, as a webcam's are."""

    def pictures(self) -> Iterator[Picture | Skipped]:
        """One pass over the source. Raises :class:`SourceError` where it breaks off."""


def open_source(text: str, max_bytes: int) -> PictureSource:
    """The source that ``text`` names; pictures of more than ``max_bytes`` are skipped without reading them.

    Raises :class:`SourceError` where there is none, or nothing in it.
    """
    if webcam := _WEBCAM.fullmatch(text):
        return Webcam(int(webcam[1] or 0))
    path = Path(text).expanduser()
    if path.is_dir():
        return Folder(path, max_bytes)
    if not path.exists():
        raise SourceError(f"{text}: there is no such file or folder (a webcam is `webcam` or `webcam:1`)")
    if zipfile.is_zipfile(path):
        return Zip(path, max_bytes)
    if path.suffix.lower() in CONTENT_TYPES:
        return Folder(path.parent, max_bytes, names=(path.name,))
    return Video(path)


class Files:
    """Pictures with names that are known beforehand."""

    names: Sequence[str]
    """Paths relative to the source, in the order of a pass over it."""
    total: int

    def in_order(self, names: Sequence[str]) -> Self:
        """The same source with these of its pictures, in this order."""
        other = copy.copy(self)
        other.names, other.total = tuple(names), len(names)
        return other


class Folder(Files):
    """The pictures of a folder and the folders in it, sorted by their path; hidden ones are left out."""

    key = None
    live = False

    def __init__(self, path: Path, max_bytes: int, names: tuple[str, ...] | None = None) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self.names = _pictures_below(path) if names is None else names
        self.uri = _uri(path)
        self.total = len(self.names)
        if not self.names:
            raise SourceError(_nothing_in(path))

    def pictures(self) -> Iterator[Picture | Skipped]:
        for name in self.names:
            path = self._path / name
            shown = _text(name)
            try:
                size = path.stat().st_size
                if size > self._max_bytes:
                    yield _too_large(shown, size, self._max_bytes)
                    continue
                value = path.read_bytes()
            except OSError as error:
                yield Skipped(shown, f"cannot be read: {error.strerror}")
                continue
            yield Picture(shown, value, CONTENT_TYPES[path.suffix.lower()])


class Zip(Files):
    """The pictures of a zip archive, sorted by their path; hidden ones are left out."""

    key = None
    live = False

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        try:
            with zipfile.ZipFile(path) as archive:
                names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
        except (OSError, zipfile.BadZipFile) as error:
            raise SourceError(f"{path}: not a zip archive that can be read: {error}") from error
        self.names = sorted(name for name in names if is_picture(PurePosixPath(name)))
        self.uri = _uri(path)
        self.total = len(self.names)
        if not self.names:
            raise SourceError(_nothing_in(path))

    def pictures(self) -> Iterator[Picture | Skipped]:
        with zipfile.ZipFile(self._path) as archive:
            for name in self.names:
                yield self._read(archive, name)

    def _read(self, archive: zipfile.ZipFile, name: str) -> Picture | Skipped:
        entry = archive.getinfo(name)
        if entry.file_size > self._max_bytes:
            return _too_large(_text(name), entry.file_size, self._max_bytes)
        try:
            value = archive.read(entry)
        # zipfile raises RuntimeError for a password, NotImplementedError for a method, zlib.error for damaged data
        except Exception as error:
            return Skipped(_text(name), f"cannot be read: {error}")
        return Picture(_text(name), value, CONTENT_TYPES[PurePosixPath(name).suffix.lower()])


class Video:
    """The frames of a video file, each as a JPEG, as if the video had begun when publishing began."""

    live = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self.uri = _uri(path)
        self.key: str | None = _text(path.stem)
        with _opened(str(path)) as container:
            if not container.streams.video:
                raise SourceError(f"{path}: holds no video")
            self.total = container.streams.video[0].frames or None

    def pictures(self) -> Iterator[Picture | Skipped]:
        import av

        start = datetime.now(UTC)
        with _opened(str(self._path)) as container:
            container.streams.video[0].thread_type = "AUTO"
            try:
                for number, frame in enumerate(container.decode(video=0)):
                    time = start + timedelta(seconds=frame.time or 0.0)
                    yield Picture(f"{self.key}#{number}", _jpeg(frame), "image/jpeg", time)
            except (av.FFmpegError, OSError) as error:
                raise SourceError(f"{self._path}: cannot be decoded any further: {error}") from error


class Webcam:
    """The frames of a webcam (Video4Linux), each as a JPEG."""

    total = None
    live = True

    def __init__(self, number: int) -> None:
        self._device = f"/dev/video{number}"
        self.uri = f"webcam:{number}"
        self.key: str | None = self.uri
        if not os.path.exists(self._device):
            there = sorted(str(device) for device in Path("/dev").glob("video*"))
            hint = f"there are {', '.join(there)}" if there else "this machine shows no /dev/video*"
            raise SourceError(f"webcam:{number}: there is no {self._device}; {hint}")

    def pictures(self) -> Iterator[Picture | Skipped]:
        import av

        with _opened(self._device, "v4l2") as container:
            try:
                for frame in container.decode(video=0):
                    now = datetime.now(UTC)
                    yield Picture(f"{self.uri}#{rfc3339(now)}", _jpeg(frame), "image/jpeg", now)
            except (av.FFmpegError, OSError) as error:
                raise SourceError(f"{self.uri}: the webcam stopped: {error}") from error


def rfc3339(time: datetime) -> str:
    """A time in UTC as ``2026-11-24T09:00:00.000Z``."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _opened(name: str, form: str | None = None) -> "InputContainer":
    try:
        import av
    except ImportError as error:
        raise SourceError(f"{name}: videos and webcams need PyAV: pip install 'layercache[video]'") from error
    try:
        return av.open(name, format=form)
    except (av.FFmpegError, OSError) as error:
        raise SourceError(
            f"{name}: neither pictures ({', '.join(CONTENT_TYPES)}), nor a zip of them, nor a video: {error}"
        ) from error


def _jpeg(frame: Any) -> bytes:
    """A decoded video frame, turned the way it is shown."""
    import torch  # takes seconds to import, and only videos need it
    from torchvision.io import encode_jpeg

    pixels = torch.from_numpy(frame.to_ndarray(format="rgb24"))
    turned = torch.rot90(pixels, frame.rotation // 90)
    return bytes(encode_jpeg(turned.permute(2, 0, 1).contiguous(), quality=_JPEG_QUALITY).numpy())


def _pictures_below(folder: Path) -> tuple[str, ...]:
    found = (Path(parent, name).relative_to(folder) for parent, _, names in os.walk(folder) for name in names)
    return tuple(sorted(path.as_posix() for path in found if is_picture(path)))


def is_picture(path: PurePosixPath | Path) -> bool:
    """Whether a file's path, relative to the source, says that it is a picture to publish."""
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in CONTENT_TYPES and not hidden


def _nothing_in(path: Path) -> str:
    return f"{path}: holds no pictures ({', '.join(CONTENT_TYPES)})"


def _too_large(name: str, size: int, most: int) -> Skipped:
    return Skipped(name, f"{size:,} bytes, over the {most:,} of topics.max_record_bytes")


def _text(name: str) -> str:
    """A file's name as text that UTF-8 can carry; names on disk may be any bytes."""
    return os.fsencode(name).decode(errors="replace")


def _uri(path: Path) -> str:
    return quote(os.fsencode(path.as_posix()), safe="/:@!$&'()*+,;=~")
