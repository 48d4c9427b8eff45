"""Distillation records survive the wire, split without loss, and are refused when damaged."""

import json
from dataclasses import fields, replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from layercache.schemas.distillation import (
    DistillationBatch,
    DistillationError,
    DistillationHeader,
    decode,
    key_hash,
)

ARRAYS = [field.name for field in fields(DistillationBatch) if field.name != "header"]
HEADER = DistillationHeader(
    model="3f9a", topic="frames", worker="w-1", heads_version="v1", audit_rate=0.1, frame_ids=(), exits=("a", "b")
)

repeatable = settings(derandomize=True, deadline=None, max_examples=60)


def example_batch(
    rows: int,
    header: DistillationHeader = HEADER,
    size: tuple[int, int, int] = (3, 4, 5),
    classes: int = 7,
    overload: bool = True,
) -> DistillationBatch:
    """A batch of seeded noise."""
    random = np.random.default_rng(rows)
    return DistillationBatch(
        header=msgspec.structs.replace(header, frame_ids=tuple(f"frames-0-{row}" for row in range(rows))),
        inputs=random.integers(0, 256, (rows, *size), dtype=np.uint8),
        logits=random.normal(size=(rows, classes)).astype(np.float32),
        audit=random.integers(0, 2, rows, dtype=np.uint8),
        live_exit=random.integers(-1, len(header.exits), rows, dtype=np.int32),
        live_label=random.integers(0, classes, rows, dtype=np.int32),
        partition=random.integers(0, 100, rows, dtype=np.int32),
        offset=random.integers(0, 2**62, rows, dtype=np.int64),
        timestamp_ms=random.integers(0, 2**42, rows, dtype=np.int64),
        key_hash=random.integers(-(2**63), 2**63 - 1, rows, dtype=np.int64),
        overload_label=random.integers(0, classes, rows, dtype=np.int32) if overload else None,
    )


def assert_same(left: DistillationBatch, right: DistillationBatch) -> None:
    assert left.header == right.header
    for name in ARRAYS:
        if getattr(right, name) is None:
            assert getattr(left, name) is None
            continue
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), strict=True)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
headers = st.builds(
    DistillationHeader,
    model=texts,
    topic=texts,
    worker=texts,
    heads_version=st.none() | texts,
    audit_rate=st.floats(0, 1),
    frame_ids=st.just(()),
    exits=st.lists(texts, max_size=4).map(tuple),
    segment_ms=st.dictionaries(texts, st.dictionaries(st.integers(1, 256), st.floats(0, 1e6), max_size=3), max_size=3),
)
batches = st.builds(
    example_batch,
    rows=st.integers(0, 9),
    header=headers,
    size=st.tuples(st.sampled_from([1, 3]), st.integers(1, 6), st.integers(1, 6)),
    classes=st.integers(1, 9),
    overload=st.booleans(),
)


@repeatable
@given(batches)
def test_decode_undoes_encode(batch: DistillationBatch) -> None:
    assert_same(decode(batch.encode()), batch)


def lessons(rows: int) -> DistillationBatch:
    """Frames without an answer."""
    nothing = np.full(rows, -1, np.int32)
    return replace(
        example_batch(rows, msgspec.structs.replace(HEADER, exits=()), overload=False),
        logits=np.empty((rows, 0), np.float32), audit=np.zeros(rows, np.uint8), live_exit=nothing,
        live_label=nothing.copy(),
    )  # fmt: skip


def test_lessons_travel_without_answers_also_where_their_record_is_split() -> None:
    batch = lessons(5)
    assert batch.of_lessons
    assert not example_batch(5).of_lessons
    raw = batch.encode()
    assert_same(decode(raw), batch)
    parts = [decode(part) for part in batch.encode_within(len(raw) - 1)]
    assert [name for part in parts for name in part.header.frame_ids] == list(batch.header.frame_ids)
    assert len(parts) == 2
    assert all(part.of_lessons for part in parts)


@pytest.mark.parametrize("label", [-1, 0])
def test_an_audit_without_the_full_models_answer_is_refused(label: int) -> None:
    batch = lessons(2)
    batch.audit[1], batch.live_label[1] = 1, label
    with pytest.raises(DistillationError, match="'live_label' holds"):
        decode(batch.encode())


@repeatable
@given(batches)
def test_any_text_may_be_a_frame_id(batch: DistillationBatch) -> None:
    ids = tuple(f'é"\\\n{row}🎒' for row in range(len(batch)))
    renamed = replace(batch, header=msgspec.structs.replace(batch.header, frame_ids=ids))
    assert decode(renamed.encode()).header.frame_ids == ids


@repeatable
@given(batches, st.integers(600, 4_000))
def test_split_records_fit_and_lose_no_frame_that_fits_alone(batch: DistillationBatch, max_bytes: int) -> None:
    records = list(batch.encode_within(max_bytes))
    assert all(len(record) <= max_bytes for record in records)
    alone = [row for row in range(len(batch)) if len(batch.rows(row, row + 1).encode()) <= max_bytes]
    returned = [name for record in records for name in decode(record).header.frame_ids]
    assert returned == [batch.header.frame_ids[row] for row in alone]
    for record in records:
        part = decode(record)
        if len(part):
            start = batch.header.frame_ids.index(part.header.frame_ids[0])
            assert_same(part, batch.rows(start, start + len(part)))


def test_a_record_that_fits_is_not_split() -> None:
    batch = example_batch(8)
    size = len(batch.encode())
    assert [len(record) for record in batch.encode_within(size)] == [size]
    assert len(list(batch.encode_within(size - 1))) == 2


def test_rows_of_a_batch_that_shares_memory_encode_alone() -> None:
    whole = example_batch(6)
    assert_same(decode(whole.rows(2, 4).encode()), whole.rows(2, 4))
    assert whole.rows(2, 4).header.frame_ids == ("frames-0-2", "frames-0-3")


@repeatable
@given(batches, st.data())
def test_a_truncated_record_is_refused(batch: DistillationBatch, data: st.DataObject) -> None:
    record = batch.encode()
    kept = data.draw(st.integers(0, len(record) - 1))
    with pytest.raises(DistillationError):
        decode(record[:kept])


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.data())
def test_a_damaged_record_is_refused_or_still_a_whole_record(data: st.DataObject) -> None:
    record = bytearray(example_batch(2, size=(1, 2, 2)).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        record[data.draw(st.integers(0, len(record) - 1))] = data.draw(st.integers(0, 255))
    try:
        batch = decode(bytes(record))
    except DistillationError:
        return
    arrays = {name: getattr(batch, name) for name in ARRAYS}
    lacking = {name for name, array in arrays.items() if array is None}
    assert lacking <= {"overload_label"}
    assert {len(array) for name, array in arrays.items() if name not in lacking} == {len(batch.header.frame_ids)}


@repeatable
@given(st.binary(max_size=64))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(DistillationError):
        decode(noise)


@pytest.mark.parametrize("metadata", [None, {}, {"header": "{}"}, {"header": "no JSON"}, {"header": "null"}])
def test_another_safetensors_file_is_refused(metadata: dict[str, str] | None) -> None:
    with pytest.raises(DistillationError, match="not a distillation record"):
        decode(save({"inputs": np.zeros((1, 1, 1, 1), np.uint8)}, metadata))


def rewritten(batch: DistillationBatch, **changes: np.ndarray | None) -> bytes:
    record = batch.encode()
    tensors = {name: array for name, array in (load(record) | changes).items() if array is not None}
    return save(tensors, {"header": msgspec.json.encode(batch.header).decode()})


def test_a_missing_tensor_is_named() -> None:
    with pytest.raises(DistillationError, match="'logits'"):
        decode(rewritten(example_batch(2), logits=None))


def test_a_tensor_of_another_dtype_is_named() -> None:
    with pytest.raises(DistillationError, match="'offset' is I32"):
        decode(rewritten(example_batch(2), offset=np.zeros(2, np.int32)))


def test_a_tensor_of_another_rank_is_named() -> None:
    with pytest.raises(DistillationError, match="'logits'"):
        decode(rewritten(example_batch(2), logits=np.zeros((2, 3, 1), np.float32)))


def test_tensors_of_different_lengths_are_refused() -> None:
    with pytest.raises(DistillationError, match="different lengths"):
        decode(rewritten(example_batch(2), audit=np.zeros(3, np.uint8)))


def test_frame_ids_must_be_as_many_as_the_frames() -> None:
    batch = example_batch(2)
    longer = replace(batch, header=msgspec.structs.replace(batch.header, frame_ids=("a", "b", "c")))
    with pytest.raises(DistillationError, match="different lengths"):
        decode(longer.encode())


def test_another_format_is_refused_by_its_number() -> None:
    batch = example_batch(1)
    newer = replace(batch, header=msgspec.structs.replace(batch.header, format=2))
    with pytest.raises(DistillationError, match="format 2"):
        decode(newer.encode())


@pytest.mark.parametrize(
    ("tensor", "value", "audit"),
    [
        ("audit", 2, 0), ("live_exit", 2, 1), ("live_exit", -2, 1), ("live_label", 7, 1), ("live_label", -1, 1),
        ("overload_label", 7, 1), ("overload_label", -1, 1),
    ],
)  # fmt: skip
def test_an_index_that_points_nowhere_is_refused(tensor: str, value: int, audit: int) -> None:
    batch = example_batch(2)
    batch.audit[:] = audit
    getattr(batch, tensor)[1] = value
    with pytest.raises(DistillationError, match=tensor):
        decode(batch.encode())


def test_only_audits_must_say_what_was_live() -> None:
    batch = example_batch(2)
    batch.audit[:] = 0
    batch.live_exit[:] = -7
    batch.live_label[:] = -7
    assert batch.overload_label is not None
    batch.overload_label[:] = -7
    assert len(decode(batch.encode())) == 2


def test_metadata_is_the_header_as_json() -> None:
    record = example_batch(1).encode()
    length = int.from_bytes(record[:8], "little")
    metadata = json.loads(record[8 : 8 + length])["__metadata__"]
    assert json.loads(metadata["header"])["model"] == "3f9a"


def test_key_hash_is_stable_and_zero_without_a_key_alone() -> None:
    assert key_hash(None) == 0
    assert key_hash(b"webcam:0") == key_hash(b"webcam:0") != 0
    assert len({key_hash(str(number).encode()) for number in range(1_000)}) == 1_000
    assert key_hash(b"") != 0


@repeatable
@given(st.binary())
def test_key_hash_fits_the_tensor(key: bytes) -> None:
    assert np.int64(key_hash(key)) == key_hash(key) != 0


@pytest.mark.parametrize("text", ["[" * 50_000, '{"x":' + "[" * 50_000, "\\ud800", "null", '{"format":2}', ""])
def test_a_header_that_is_none_is_refused_however_odd(text: str) -> None:
    arrays = load(example_batch(2).encode())
    with pytest.raises(DistillationError):
        decode(save(arrays, {"header": text}))
    header = json.dumps({"__metadata__": {"header": text}}).encode()
    with pytest.raises(DistillationError):
        decode(len(header).to_bytes(8, "little") + header)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_teach_nothing(wrong: float) -> None:
    batch = example_batch(2)
    logits = batch.logits.copy()
    logits[1, 0] = wrong
    with pytest.raises(DistillationError, match="'logits' is not finite"):
        decode(replace(batch, logits=logits).encode())
