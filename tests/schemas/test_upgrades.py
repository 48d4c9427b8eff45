"""Versions meet during an upgrade: readers take what older and newer writers of the same format wrote, not others."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load, save

from layercache.early_exit.store.head_store import HeadStore, StoreError
from layercache.schemas import manifest as manifests
from layercache.schemas import prediction
from layercache.schemas.dead_letter import DeadLetterHeaders, Reason, headers
from layercache.schemas.distillation import DistillationBatch, DistillationError, DistillationHeader, decode
from layercache.schemas.manifest import LaterFormat
from tests.cache_training.builders import as_lessons
from tests.support.manifests import manifest, overload, tensors

#: As the first version wrote them, letter by letter.
OLD_PREDICTION = {
    "id": "cat", "topic": "frames", "partition": 0, "offset": 7, "label": 1, "class_name": "cat", "confidence": 0.9,
    "top_k": [{"label": 1, "class_name": "cat", "confidence": 0.9}], "exit": "full", "audited": True,
    "heads_version": None, "model": "3f9a",
    "times": {"frame_ms": 1, "predicted_ms": 2, "decode_ms": 0.5, "inference_ms": 1.5},
}  # fmt: skip
OLD_MANIFEST = {
    "format": 1, "version": "v0001", "model": "3f9a", "model_name": "tiny", "created": "2026-01-01T00:00:00Z",
    "reason": "first", "predecessor": None, "full_flops_share": 1.0, "audit_rate": 0.1, "expected": None,
    "exits": [{
        "cut": "first", "temperature": 1.5, "threshold": 0.9, "flops_share": 0.4, "time_share": 0.5,
        "head": {"family": "pooled", "features": [8, 16, 16], "classes": 3},
    }],
    "certificate": {
        "max_disagreement": 0.01, "confidence": 0.95, "attempt": 1, "error": 0.025, "frames": 1000, "disagreements": 2,
        "p_value": 0.003, "upper_bound": 0.008,
    },
}  # fmt: skip


def with_news(value: Any) -> Any:
    """The same document from a version of the future: every object in it has fields that nobody knows yet."""
    if isinstance(value, dict):
        return {name: with_news(one) for name, one in value.items()} | {"of_the_future": {"a": [1, None]}}
    return [with_news(one) for one in value] if isinstance(value, list) else value


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_a_prediction_of_an_older_or_a_newer_worker_is_read() -> None:
    old = prediction.decoder.decode(as_json(OLD_PREDICTION))
    assert (old.id, old.budget, old.max_disagreement, old.worker) == ("cat", "normal", None, None)
    assert prediction.decoder.decode(as_json(with_news(OLD_PREDICTION))) == old


def test_a_worker_that_knows_no_compiled_paths_keeps_their_exits_closed() -> None:
    path = manifests.CompiledPath(precision="int8", graphs=("ab" * 32,))
    certified = msgspec.structs.replace(manifest(0), path=path, overload=overload((0.5,)))
    assert manifests.decode(manifests.encode(certified)) == certified
    read_by_old = json.loads(manifests.encode(certified))
    assert (read_by_old["exits"], read_by_old["overload"]) == ([], None)
    assert [one["cut"] for one in read_by_old["path"]["exits"]] == ["first"]


def test_a_manifest_of_an_older_or_a_newer_trainer_is_read() -> None:
    old = manifests.decode(as_json(OLD_MANIFEST))
    assert (old.exits[0].cut, old.overload, old.certificate and old.certificate.classes_tested) == ("first", None, 0)
    assert old.certificate is not None
    assert (old.certificate.recycled, old.certificate.recycled_from) == (0.0, ())
    assert manifests.decode(as_json(with_news(OLD_MANIFEST))) == old


def test_a_pin_of_a_newer_command_is_read() -> None:
    assert manifests.pin_decoder.decode(as_json(with_news({"version": "v1"}))).version == "v1"


def test_a_manifest_of_another_format_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(LaterFormat, match="of format 2, this version reads format 1"):
        manifests.decode(as_json(OLD_MANIFEST | {"format": 2}))
    with pytest.raises(msgspec.ValidationError):
        manifests.decode(as_json(OLD_MANIFEST | {"audit_rate": "often"}))

    store = HeadStore(f"file://{tmp_path}", "tiny")
    stored = store.publish(manifest(1), tensors(1))
    path = tmp_path / "tiny" / stored.version / "manifest.json"
    path.write_bytes(as_json(json.loads(path.read_bytes()) | {"format": 2}))
    with pytest.raises(StoreError, match="of format 2, this version reads format 1: upgrade this process"):
        store.load(stored.version)


def record() -> DistillationBatch:
    """Of two frames, as an older worker sends it: without what overload needs."""
    header = DistillationHeader(
        model="3f9a", topic="frames", worker="w", heads_version=None, audit_rate=1.0, frame_ids=("a", "b")
    )
    ints, longs = np.zeros(2, np.int32), np.arange(2, dtype=np.int64)
    return DistillationBatch(
        header=header, inputs=np.zeros((2, 1, 2, 2), np.uint8), logits=np.eye(2, 3, dtype=np.float32),
        audit=np.ones(2, np.uint8), live_exit=ints - 1, live_label=ints, partition=ints, offset=longs,
        timestamp_ms=longs, key_hash=longs,
    )  # fmt: skip


def test_a_distillation_record_of_an_older_worker_is_read() -> None:
    raw = record().encode()
    header = json.loads(metadata(raw)["header"])
    for name in ("miss_share", "exits", "segment_ms"):
        del header[name]
    read = decode(save(load(raw), {"header": json.dumps(header)}))
    assert (read.header.miss_share, read.overload_label, len(read)) == (1.0, None, 2)
    assert not read.of_lessons


def test_a_distillation_record_of_a_newer_worker_is_read() -> None:
    raw = record().encode()
    header = with_news(json.loads(metadata(raw)["header"])) | {"segment_ms": {}}  # a map, its keys are data
    newer = save(load(raw) | {"of_the_future": np.zeros(3, np.float32)}, {"header": json.dumps(header), "other": "x"})
    assert decode(newer).header == record().header


def first_trainer_takes(raw: bytes, model: str, shape: tuple[int, ...], classes: int) -> bool:
    """What the first version asks of a record, before it learns from it: that it is whole, and of this model."""
    tensors = load(raw)
    header = json.loads(metadata(raw)["header"])
    assert header["format"] == 1
    wanted = {
        "inputs": (np.uint8, 4), "logits": (np.float32, 2), "audit": (np.uint8, 1), "live_exit": (np.int32, 1),
        "live_label": (np.int32, 1), "partition": (np.int32, 1), "offset": (np.int64, 1), "timestamp_ms": (np.int64, 1),
        "key_hash": (np.int64, 1),
    }  # fmt: skip
    assert {name: (tensors[name].dtype.type, tensors[name].ndim) for name in wanted} == wanted
    assert {len(tensors[name]) for name in wanted} == {len(header["frame_ids"])}
    assert np.isfinite(tensors["logits"]).all()
    audits = tensors["audit"] == 1
    assert (tensors["live_label"][audits] < tensors["logits"].shape[1]).all()
    return header["model"] == model and tensors["inputs"].shape[1:] == shape and tensors["logits"].shape[1] == classes


def test_a_trainer_that_knows_no_lessons_leaves_them_out_as_it_does_another_models_records() -> None:
    assert first_trainer_takes(record().encode(), "3f9a", (1, 2, 2), 3)
    assert not first_trainer_takes(record().encode(), "81c0", (1, 2, 2), 3)
    lessons = as_lessons(record())
    assert decode(lessons.encode()).of_lessons
    assert not first_trainer_takes(lessons.encode(), "3f9a", (1, 2, 2), 3)


def test_a_distillation_record_of_another_format_is_named() -> None:
    newer = replace(record(), header=msgspec.structs.replace(record().header, format=2))
    with pytest.raises(DistillationError, match="of format 2, this version reads format 1"):
        decode(newer.encode())


def metadata(record: bytes) -> dict[str, str]:
    length = int.from_bytes(record[:8], "little")
    read: dict[str, str] = json.loads(record[8 : 8 + length])["__metadata__"]
    return read


def test_a_dead_letter_with_headers_of_a_newer_worker_is_read() -> None:
    written = [*headers(Reason.EMPTY, "nothing", "frames", 0, 1), ("layercache-of-the-future", b"1")]
    assert DeadLetterHeaders.read(written).reason is Reason.EMPTY
