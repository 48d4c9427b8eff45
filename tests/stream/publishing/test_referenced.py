"""Pictures are put into a store, or found there, and what is published is where they lie."""

import threading
from pathlib import Path

import fsspec
import pytest

from layercache.schemas.settings import Settings, Worker
from layercache.stream.publishing.publisher import Plan, publish
from layercache.stream.publishing.referenced import Deposited, Stored
from layercache.stream.publishing.sources import Folder, Picture, PictureSource, Skipped, SourceError
from layercache.stream.references.prefixes import AllowList
from testbed.topics import create_topics, unique_topics
from testbed.worker_process import reading
from tests.conftest import Broker
from tests.support.fickle_store import fickle_store

MANY = 1_000_000


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    (folder / "gate 3").mkdir(parents=True)
    for name in ("a.png", "gate 3/50%.jpg", "gate 3/#1.webp"):
        (folder / name).write_bytes(name.encode())
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"hidden")
    return folder


def pictures(source: PictureSource) -> list[Picture]:
    return [item for item in source.pictures() if isinstance(item, Picture)]


def test_pictures_are_written_and_their_references_lead_back(album: Path, tmp_path: Path) -> None:
    for prefix in (f"file://{tmp_path}/store", "memory://store/"):
        found = pictures(Deposited(Folder(album, MANY), prefix))
        assert [picture.name for picture in found] == ["a.png", "gate 3/#1.webp", "gate 3/50%.jpg"]
        assert [picture.value for picture in found] == [b""] * 3
        for picture in found:
            location = AllowList({prefix: {}}).find(picture.reference or "")[1]
            assert fsspec.open(location.plain).open().read() == picture.name.encode()
    assert {path.name for path in (tmp_path / "store").rglob("*") if path.is_file()} == {"a.png", "#1.webp", "50%.jpg"}


def test_what_lies_in_a_store_is_listed_and_not_read(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = pictures(Stored(f"file://{album}/"))
    assert [(picture.name, picture.content_type) for picture in found] == [
        ("a.png", "image/png"), ("gate 3/#1.webp", "image/webp"), ("gate 3/50%.jpg", "image/jpeg"),
    ]  # fmt: skip
    assert [picture.reference for picture in found][1:] == [
        f"file://{album}/gate%203/%231.webp",
        f"file://{album}/gate%203/50%25.jpg",
    ]
    (one,) = pictures(Stored(f"file://{album}/a.png"))
    assert one.reference == f"file://{album}/a.png"
    fsspec.filesystem("memory").pipe_file("/listed/x/1.png", b"")
    assert [picture.reference for picture in pictures(Stored("memory://listed/"))] == ["memory://listed/x/1.png"]


def test_a_picture_over_the_workers_limit_is_skipped_and_the_right_limit_is_named(album: Path, tmp_path: Path) -> None:
    items = list(Deposited(Folder(album, 6), f"file://{tmp_path}/store").pictures())
    skipped = [item for item in items if isinstance(item, Skipped)]
    assert len(skipped) == 2
    assert all("worker.max_frame_bytes" in item.why for item in skipped)


def test_a_name_that_leads_out_is_skipped() -> None:
    class Evil:
        uri, key, total, live = "evil", None, 1, False

        def pictures(self):  # type: ignore[no-untyped-def]
            yield Picture("../a.png", b"picture", "image/png")

    (item,) = Deposited(Evil(), "memory://store/").pictures()
    assert isinstance(item, Skipped)


@pytest.mark.parametrize(
    "url", ["", "store", "file://./store", "zip://x::s3://y/", "nosuch://a/", "https://me:pw@h/f/"]
)
def test_a_place_that_is_none_is_named_with_what_to_write(album: Path, url: str) -> None:
    with pytest.raises(SourceError) as caught:
        Deposited(Folder(album, MANY), url)
    assert "pw" not in str(caught.value).removeprefix(url)


def test_an_empty_or_absent_folder_is_told(tmp_path: Path) -> None:
    for url in (f"file://{tmp_path}/", f"file://{tmp_path}/absent/", "memory://nothing-here/"):
        with pytest.raises(SourceError, match=r"holds no pictures|cannot be listed"):
            Stored(url)


def test_a_store_that_cannot_be_written_to_ends_publishing(album: Path, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file, where a folder should be")
    with pytest.raises(SourceError, match=r"a\.png cannot be written to"):
        list(Deposited(Folder(album, MANY), f"file://{tmp_path}/store/").pictures())


def test_a_store_that_refuses_is_told_without_its_password(album: Path) -> None:
    with fickle_store() as store:
        store.failures["bucket/a.png"] = 1
        with pytest.raises(
            SourceError, match=r"a\.png cannot be written to .*: ConnectionError: no connection"
        ) as caught:
            list(
                Deposited(
                    Folder(album, MANY), "fickle://bucket/", {"fickle://bucket/": {"password": "hunter2"}}
                ).pictures()
            )
    assert "hunter2" not in str(caught.value)


def test_options_come_from_the_settings_prefix_that_holds_the_place() -> None:
    deposited = Deposited(
        Folder(Path(__file__).parent, 0, names=("x.png",)), "memory://a/b/", {"memory://a/": {"x": 1}}
    )
    assert dict(deposited._prefix.options) == {"x": 1}


def test_records_carry_the_reference_and_no_value(embedded_broker: Broker, album: Path, tmp_path: Path) -> None:
    topics = create_topics(embedded_broker.bootstrap_servers, unique_topics())
    settings = Settings(kafka=embedded_broker.kafka, topics=topics, worker=Worker(max_frame_bytes=100_000_000))
    (album / "large.npy").write_bytes(bytes(topics.max_record_bytes + 1))
    store = f"file://{tmp_path}/store"
    source = Deposited(Folder(album, settings.worker.max_frame_bytes), store)
    assert publish(settings, source, Plan(), threading.Event()).whole
    with reading(settings, topics.frames) as reader:
        messages = reader.read_count(4)
    assert {message.value() for message in messages} == {None}
    references = {dict(message.headers() or [])["ce_dataref"] for message in messages}
    assert f"{store}/large.npy".encode() in references
    assert (tmp_path / "store" / "large.npy").stat().st_size == topics.max_record_bytes + 1
