"""The AsyncAPI document is whole, and agrees with the settings and the codecs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import deserialize

from layercache.schemas import publish
from layercache.schemas.dead_letter import HEADROOM_BYTES
from layercache.schemas.frame import CONTENT_TYPES
from layercache.schemas.settings import Settings
from tests.schemas.test_distillation import example_batch

FILE = Path(publish.__file__).parent / "asyncapi.yaml"
DOCUMENT: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))


def references(node: object) -> Iterator[str]:
    match node:
        case {"$ref": str(target)}:
            yield target
        case dict():
            for value in node.values():
                yield from references(value)
        case list():
            for value in node:
                yield from references(value)


def resolve(reference: str) -> Any:
    file, _, pointer = reference.partition("#")
    node: Any = yaml.safe_load((FILE.parent / file).read_text(encoding="utf-8")) if file else DOCUMENT
    for part in pointer.strip("/").split("/") if pointer else ():
        node = node[part]
    return node


@pytest.mark.parametrize("reference", sorted(set(references(DOCUMENT))))
def test_reference_leads_somewhere(reference: str) -> None:
    assert resolve(reference)


def test_every_message_schema_is_referred_to() -> None:
    files = {reference for reference in references(DOCUMENT) if reference.startswith("json/")}
    assert files == {f"json/{name}.json" for name in publish.documents()} - {
        "json/settings.json",  # a file, not a message
        "json/manifest.json",
        "json/pin.json",
    }


def test_has_what_the_specification_requires() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(DOCUMENT["info"])
    for server in DOCUMENT["servers"].values():
        assert {"host", "protocol"} <= set(server)
    for operation in DOCUMENT["operations"].values():
        assert operation["action"] in {"send", "receive"}
        assert operation["channel"]["$ref"].startswith("#/channels/")


def test_every_channel_is_used() -> None:
    used = {operation["channel"]["$ref"] for operation in DOCUMENT["operations"].values()}
    assert used == {f"#/channels/{name}" for name in DOCUMENT["channels"]}


def test_channels_are_the_topics_of_the_default_settings() -> None:
    topics = Settings().topics
    told = {
        name: (channel["address"], channel["bindings"]["kafka"]["partitions"])
        for name, channel in DOCUMENT["channels"].items()
    }
    assert told == {
        "frames": (topics.frames, topics.partitions),
        "predictions": (topics.predictions, topics.partitions),
        "distillation": (topics.distillation, 1),
        "deadLetters": (topics.dead_letters, topics.partitions),
    }


def test_record_sizes_and_retention_are_the_settings() -> None:
    topics = Settings().topics
    configurations = {
        name: channel["bindings"]["kafka"]["topicConfiguration"] for name, channel in DOCUMENT["channels"].items()
    }
    assert {name: configuration["max.message.bytes"] for name, configuration in configurations.items()} == {
        "frames": topics.max_record_bytes,
        "predictions": topics.max_record_bytes,
        "distillation": topics.max_record_bytes,
        "deadLetters": topics.max_record_bytes + HEADROOM_BYTES,
    }
    assert configurations["distillation"]["retention.ms"] == topics.distillation_retention_ms


def test_groups_are_the_settings() -> None:
    settings = Settings()
    operations = DOCUMENT["operations"]
    assert operations["answerFrames"]["bindings"]["kafka"]["groupId"]["default"] == settings.worker.group_id
    assert operations["learn"]["bindings"]["kafka"]["groupId"]["default"] == settings.trainer.group_id


def test_frames_may_be_what_the_decoder_reads() -> None:
    messages = [resolve(message["$ref"]) for message in DOCUMENT["channels"]["frames"]["messages"].values()]
    assert {message["contentType"] for message in messages} == set(CONTENT_TYPES)


def test_distillation_tensors_are_those_of_a_record() -> None:
    told = DOCUMENT["components"]["messages"]["distillationBatch"]["x-safetensors"]["tensors"]
    written = dict(deserialize(example_batch(3).encode()))
    assert {name: (tensor["dtype"], len(tensor["shape"])) for name, tensor in told.items()} == {
        name: (tensor["dtype"], len(tensor["shape"])) for name, tensor in written.items()
    }
