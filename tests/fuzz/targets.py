"""What is fuzzed: each target reads any bytes, and raises only where a reader did what it promises not to do."""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from uuid import uuid4

import msgspec
import numpy as np
import torch
from safetensors.torch import save

from layercache.cache_training.trainer import OnlineTrainer
from layercache.early_exit.cutting import cuts
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.heads.families import HeadsError, build_head
from layercache.early_exit.heads.loading import load_heads, tensor_names
from layercache.early_exit.model import loading
from layercache.early_exit.store.blobs import StoreError
from layercache.early_exit.store.head_store import HeadStore
from layercache.early_exit.store.signing import Signer
from layercache.early_exit.store.version_files import HEADS, MANIFEST, SIGNATURE
from layercache.schemas import manifest as manifests
from layercache.schemas import prediction as predictions
from layercache.schemas.dead_letter import DeadLetterHeaders
from layercache.schemas.distillation import DistillationBatch, DistillationError, DistillationHeader
from layercache.schemas.distillation import decode as decode_distillation
from layercache.schemas.frame import FrameHeaders
from layercache.schemas.manifest import Exit, HeadSpec, Manifest
from layercache.schemas.settings import Promise, Trainer, load
from layercache.stream.frames.decoding import DecodeError, Limits, decode_frame
from layercache.stream.frames.envelope import MAX_ENVELOPE_BYTES, check_envelope, shown
from layercache.stream.references.prefixes import Location, Refused
from layercache.stream.watching import json_line
from tests.support import tiny_model
from tests.support.pictures import coloured, encode

CANARY = "canary-4711"
_LIMITS = Limits(max_bytes=100_000, max_pixels=100_000)


@dataclass(frozen=True)
class Target:
    """``run`` returns for input that is read or refused as promised, and raises anything for a finding."""

    run: Callable[[bytes], None]
    examples: Callable[[], Sequence[bytes]]


@cache
def _traced() -> TracedModel:
    return cuts.trace(loading.load(tiny_model.write(Path(tempfile.mkdtemp(prefix="fuzz-"))).settings))


# Frames: the pictures themselves


def _frame(data: bytes) -> None:
    preprocessing = _traced().classifier.preprocessing
    try:
        picture = decode_frame(data, None, preprocessing, _LIMITS)
    except DecodeError as error:
        shown(str(error)).encode()
        return
    assert (picture.dtype, tuple(picture.shape)) == (torch.uint8, (3, tiny_model.SIZE, tiny_model.SIZE))


def _pictures() -> list[bytes]:
    colour, grey = coloured("red", 20, 24), coloured("blue", 18, 18)[..., 0]
    found = [encode(pixels, kind) for pixels in (colour, grey) for kind in ("JPEG", "PNG", "WEBP", "NPY")]
    found += [encode(colour, "JPEG", progressive=True), encode(colour, "WEBP", lossless=True)]
    return [*found, encode(np.asfortranarray(colour), "NPY"), encode(grey.astype(np.uint16), "NPY")]


# Headers: length-prefixed names and values make a record's


def _headers(data: bytes) -> None:
    raw: list[tuple[str, bytes | None]] = []
    while len(data) > 2:
        name, value, data = (
            data[2 : 2 + data[0]],
            data[2 + data[0] : 2 + data[0] + data[1]],
            data[2 + data[0] + data[1] :],
        )
        raw.append((name.decode(errors="replace"), value if value != b"null" else None))
    found = FrameHeaders.read(raw)
    for text in (found.ce_id, found.content_type, found.label):
        assert shown(text or "").isprintable()
    FrameHeaders.read(found.as_kafka())
    try:
        check_envelope(None, raw, MAX_ENVELOPE_BYTES)
        DeadLetterHeaders.read(raw)
    except (DecodeError, msgspec.ValidationError):
        return


def _header_examples() -> list[bytes]:
    frame = {"content-type": "image/png", "ce_id": "camera-1/7", "ce_time": "2026-01-01T00:00:00Z", "label": "cat"}
    letter = {"reason": "corrupt", "message": "broken", "topic": "frames", "partition": "1", "offset": "12"}
    return [_packed(frame), _packed({f"layercache-{name}": value for name, value in letter.items()})]


def _packed(headers: dict[str, str]) -> bytes:
    return b"".join(bytes([len(n), len(v)]) + n.encode() + v.encode() for n, v in headers.items())


# References to pictures that lie elsewhere


def _reference(data: bytes) -> None:
    try:
        location = Location.parse(data.decode(errors="replace"))
    except Refused:
        return
    assert not {"", ".", ".."} & set(location.segments)
    assert Location.parse(str(location)) == location


# The store: manifests, tensors, pointers, signatures


def _version(family: str) -> tuple[Manifest, dict[str, torch.Tensor]]:
    traced = _traced()
    cut = traced.proposed[0]
    sizes = {"hidden": 4} if family == "pooled" else {"width": 4, "depth": 2}
    spec = HeadSpec(family=family, features=cut.shape, classes=3, **sizes)  # type: ignore[arg-type]
    manifest = Manifest(
        version="v1", model=traced.classifier.fingerprint, model_name="tiny", created="2026-01-01T00:00:00Z",
        reason="first", predecessor=None, audit_rate=0.1, certificate=None, expected=None,
        exits=(Exit(cut=cut.name, head=spec, temperature=1.0, threshold=0.5, flops_share=0.2, time_share=0.2),),
    )  # fmt: skip
    torch.manual_seed(0)
    return manifest, tensor_names(cut.name, build_head(spec))


def _load(files: dict[str, bytes], signer: Signer | None = None) -> None:
    """As a worker does it with a version whose files hold this."""
    store = HeadStore(f"memory://fuzz-{uuid4().hex}", "tiny", signer=signer)
    for name, data in files.items():
        store._blobs.put(name, data)
    try:
        live = store.live()
        if live.version is not None:
            load_heads(*store.load(live.version), _traced())
    except (StoreError, HeadsError) as error:
        str(error).encode()
    finally:
        store._blobs._fs.store.clear()


def _manifest(data: bytes) -> None:
    _load({"LATEST": b"v1", f"v1/{MANIFEST}": data, f"v1/{HEADS}": save(_version("pooled")[1])})


def _manifest_examples() -> list[bytes]:
    return [manifests.encoder.encode(_version(family)[0]) for family in ("pooled", "branch")]


def _tensors(data: bytes) -> None:
    _load({"LATEST": b"v1", f"v1/{MANIFEST}": manifests.encoder.encode(_version("pooled")[0]), f"v1/{HEADS}": data})


def _tensor_examples() -> list[bytes]:
    return [save(_version(family)[1]) for family in ("pooled", "branch")]


def _pointers(data: bytes) -> None:
    _load({"LATEST": data})
    _load({"PIN": data})


def _pointer_examples() -> list[bytes]:
    return [b"v1", b'{"version":"v1","reason":"release","created":"2026-01-01T00:00:00Z"}', b'{"version":null}']


def _signature(data: bytes) -> None:
    signer = Signer([b"k" * 32])
    manifest = manifests.encoder.encode(_version("pooled")[0])
    assert signer.accepts(manifest, data) == (data.decode("ascii", "replace").strip().encode() == signer.sign(manifest))
    _load({"LATEST": b"v1", f"v1/{MANIFEST}": manifest, f"v1/{SIGNATURE}": data}, signer)


def _signature_examples() -> list[bytes]:
    return [Signer([b"k" * 32]).sign(manifests.encoder.encode(_version("pooled")[0])), b"0" * 64]


# Records that teach the trainer


@cache
def _trainer() -> OnlineTrainer:
    store = HeadStore(f"memory://trainer-{uuid4().hex}", "tiny")
    return OnlineTrainer(_traced(), store, Promise(), Trainer(replay_mb=8, ring_mb=8, window_frames=100))


def _distillation(data: bytes) -> None:
    try:
        batch = decode_distillation(data)
    except DistillationError as error:
        str(error).encode()
        return
    _trainer().ingest(batch)


def _distillation_examples() -> list[bytes]:
    found = []
    for count in (1, 3):
        header = DistillationHeader(
            model=_traced().classifier.fingerprint, topic="frames", worker="w", heads_version="v1", audit_rate=0.5,
            frame_ids=tuple(map(str, range(count))), exits=("first",), segment_ms={"first": {1: 0.5, 8: 2.0}},
        )  # fmt: skip
        rows = np.arange(count)
        record = DistillationBatch(
            header=header, inputs=np.full((count, 3, 16, 16), 7, np.uint8),
            logits=np.eye(3, dtype=np.float32)[rows % 3], audit=(rows % 2).astype(np.uint8),
            live_exit=np.zeros(count, np.int32), live_label=np.zeros(count, np.int32),
            partition=np.zeros(count, np.int32), offset=rows.astype(np.int64),
            timestamp_ms=rows.astype(np.int64), key_hash=rows.astype(np.int64),
        )  # fmt: skip
        found.append(record.encode())
    return found


# What people write and read: settings, predictions


def _settings(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(data)
        file.flush()
        try:
            found = load(Path(file.name))
        except ValueError as error:  # pydantic's, tomllib's and that of a wrong encoding are such
            str(error).encode()
            return
    assert CANARY not in repr(found)


def _settings_examples() -> list[bytes]:
    return [
        f'[kafka]\nbootstrap_servers = "a:1,b:2"\n[kafka.options]\n"sasl.password" = "{CANARY}"\n'
        '"session.timeout.ms" = 6000\n[worker]\nmax_batch = 8\nmax_wait_ms = 2.5\nmode = "shadow"\n'.encode(),
        f'[store]\nurl = "s3://bucket"\nsigning_key = "{CANARY}"\n[store.options]\nsecret = "{CANARY}"\n'
        '[store.option_files]\nkey = "/nowhere"\n[promise]\nmax_disagreement = 0.01\n'.encode(),
    ]


def _prediction(data: bytes) -> None:
    try:
        found = predictions.decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # as `layercache watch` has it
        return
    json_line(data)
    assert shown(found.id).isprintable()
    assert predictions.decoder.decode(predictions.encoder.encode(found)) == found


def _prediction_examples() -> list[bytes]:
    ranked = [[0, "cat", 0.9], [1, "dog", 0.1]]
    times = {"frame_ms": 1, "predicted_ms": 2, "decode_ms": 0.5, "inference_ms": 3.5}
    fields = {
        "id": "a", "topic": "frames", "partition": 0, "offset": 1, "label": 0, "class_name": "cat", "confidence": 0.9,
        "top_k": ranked, "exit": "full", "audited": True, "heads_version": None, "model": "f" * 64, "times": times,
    }  # fmt: skip
    return [json.dumps(fields).encode()]


TARGETS = {
    "frames": Target(_frame, _pictures),
    "headers": Target(_headers, _header_examples),
    "references": Target(_reference, lambda: [b"s3://cameras/a/b%20c.jpg", b"file:///srv/x.png", b"https://h/p?q#f"]),
    "manifests": Target(_manifest, _manifest_examples),
    "heads (safetensors)": Target(_tensors, _tensor_examples),
    "LATEST and PIN": Target(_pointers, _pointer_examples),
    "signatures": Target(_signature, _signature_examples),
    "distillation records": Target(_distillation, _distillation_examples),
    "settings": Target(_settings, _settings_examples),
    "predictions": Target(_prediction, _prediction_examples),
}
