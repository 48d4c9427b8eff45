"""The published schemas say what the types say."""

import json
from pathlib import Path

import jsonschema
import pytest

from layercache.schemas import dead_letter, manifest, prediction, publish
from layercache.schemas.dead_letter import Reason
from layercache.schemas.frame import FrameHeaders
from layercache.schemas.manifest import Certificate, Exit, Expected, HeadSpec, Manifest
from layercache.schemas.prediction import Prediction, Ranked, Times

PREDICTION = Prediction(
    id="bag.webp",
    topic="frames",
    partition=3,
    offset=1871,
    label=8,
    class_name="Bag",
    confidence=0.98,
    top_k=(Ranked(8, "Bag", 0.98), Ranked(0, "T-shirt", 0.01)),
    exit="full",
    audited=True,
    heads_version=None,
    model="3f9a",
    times=Times(frame_ms=1, predicted_ms=2, decode_ms=0.5, inference_ms=3.25),
)
MANIFEST = Manifest(
    version="2026-11-24T09-00-00-00",
    model="3f9a",
    model_name="resnet18",
    created="2026-11-24T09:00:00Z",
    reason="first",
    predecessor=None,
    exits=(
        Exit(
            cut="layer2",
            head=HeadSpec(family="branch", features=(128, 14, 14), classes=10, width=64, depth=2),
            temperature=1.5,
            threshold=0.9,
            flops_share=0.4,
            time_share=0.45,
        ),
    ),
    audit_rate=0.05,
    certificate=Certificate(
        max_disagreement=0.01,
        confidence=0.95,
        attempt=1,
        error=0.025,
        frames=900,
        disagreements=1,
        p_value=0.001,
        upper_bound=0.008,
    ),
    expected=Expected(hit_rate=0.7, flops_saved=0.4, time_saved=0.35),
)


def validator(name: str) -> jsonschema.Draft202012Validator:
    document = json.loads((publish.FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document)


@pytest.mark.parametrize("name", publish.documents())
def test_file_is_what_the_type_says(name: str) -> None:
    published = (publish.FOLDER / f"{name}.json").read_text(encoding="utf-8")
    assert published == publish.render(publish.documents()[name]), "run `python -m layercache.schemas.publish`"


def test_no_file_is_left_of_a_type_that_is_gone() -> None:
    assert {path.stem for path in publish.FOLDER.iterdir()} == set(publish.documents())


def test_write_writes_every_document(tmp_path: Path) -> None:
    written = publish.write(tmp_path / "json")
    assert sorted(path.stem for path in written) == sorted(publish.documents())


@pytest.mark.parametrize("name", publish.documents())
def test_every_schema_is_valid_and_named(name: str) -> None:
    schema = validator(name).schema
    assert schema["$id"] == f"urn:layercache:schema:{name}:1"
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_an_encoded_prediction_fits_its_schema() -> None:
    validator("prediction").validate(json.loads(prediction.encoder.encode(PREDICTION)))


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("label", "eight"), ("confidence", None), ("audited", 1), ("top_k", {"8": 0.98}), ("times", {})],
)
def test_a_wrong_prediction_does_not(field: str, wrong: object) -> None:
    document = json.loads(prediction.encoder.encode(PREDICTION)) | {field: wrong}
    assert not validator("prediction").is_valid(document)


def test_a_prediction_without_its_exit_does_not() -> None:
    document = json.loads(prediction.encoder.encode(PREDICTION))
    del document["exit"]
    assert not validator("prediction").is_valid(document)


def test_an_encoded_manifest_fits_its_schema() -> None:
    document = json.loads(manifest.encode(MANIFEST))
    validator("manifest").validate(document)
    assert not validator("manifest").is_valid(document | {"reason": "because"})
    assert not validator("manifest").is_valid(document | {"format": 2})


def test_frame_headers_fit_their_schema_under_their_names_on_the_wire() -> None:
    headers = FrameHeaders(content_type="image/png", ce_id="1", ce_source="cam", ce_time="2026-01-01T00:00:00Z")
    document = {name: value.decode() for name, value in headers.as_kafka()}
    schema = validator("frame-headers")
    schema.validate(document)
    assert set(document) < set(schema.schema["$defs"]["FrameHeaders"]["properties"])
    assert not schema.is_valid({"ce_id": None})


def test_dead_letter_headers_fit_their_schema() -> None:
    headers = dead_letter.headers(Reason.CORRUPT, "ends after 17 bytes", "frames", 3, 1871)
    document = {name: value.decode() for name, value in headers}
    validator("dead-letter-headers").validate(document)
    assert not validator("dead-letter-headers").is_valid(document | {"layercache-reason": "bored"})
    assert not validator("dead-letter-headers").is_valid(document | {"layercache-offset": "-1"})


def test_fields_carry_their_docstrings() -> None:
    fields = publish.documents()["prediction"]["$defs"]["Prediction"]["properties"]
    assert fields["exit"]["description"] == "The exit that answered, or `full`."


def test_settings_schema_accepts_a_settings_file_and_refuses_a_misspelt_one() -> None:
    schema = validator("settings")
    schema.validate({"kafka": {"bootstrap_servers": "broker:9092"}, "promise": {"max_disagreement": 0.02}})
    assert not schema.is_valid({"kafka": {"bootstrap_server": "broker:9092"}})
    assert not schema.is_valid({"promise": {"max_disagreement": 1.5}})
