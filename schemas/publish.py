"""Writes the published JSON Schemas, ``python -m layercache.schemas.publish``: one file a type under ``schemas/json``.

The types are the source; the files are for readers in other languages, and a test keeps them in step.
"""

import ast
import inspect
import json
import textwrap
from pathlib import Path
from typing import Any

import msgspec

from layercache.schemas.dead_letter import DeadLetterHeaders
from layercache.schemas.distillation import DistillationHeader
from layercache.schemas.frame import FrameHeaders
from layercache.schemas.manifest import Manifest, Pin
from layercache.schemas.prediction import Prediction
from layercache.schemas.settings import Settings

FOLDER = Path(__file__).parent / "json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

_STRUCTS: dict[str, type[msgspec.Struct]] = {
    "frame-headers": FrameHeaders,
    "prediction": Prediction,
    "dead-letter-headers": DeadLetterHeaders,
    "distillation-header": DistillationHeader,
    "manifest": Manifest,
    "pin": Pin,
}
#: A header that is not set is left out of the record: null is not among its values.
_HEADERS = {"frame-headers", "dead-letter-headers"}


def documents() -> dict[str, dict[str, Any]]:
    """Every published schema, by the name of its file without ``.json``."""
    schemas = {name: _struct_schema(struct, name in _HEADERS) for name, struct in _STRUCTS.items()}
    schemas["settings"] = Settings.model_json_schema()
    return {
        name: {"$schema": DIALECT, "$id": f"urn:layercache:schema:{name}:1"} | schema
        for name, schema in schemas.items()
    }


def render(document: dict[str, Any]) -> str:
    """The text of a schema's file."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def write(folder: Path = FOLDER) -> list[Path]:
    """Writes every schema into ``folder`` and returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, document in documents().items():
        path = folder / f"{name}.json"
        path.write_text(render(document), encoding="utf-8")
        paths.append(path)
    return paths


def _struct_schema(struct: type[msgspec.Struct], headers: bool) -> dict[str, Any]:
    schema = msgspec.json.schema(struct)
    for definition, part in schema["$defs"].items():
        if "description" in part:
            part["description"] = _plain(part["description"])
        owner = getattr(inspect.getmodule(struct), definition)
        if not issubclass(owner, msgspec.Struct):
            continue
        for name, text in _field_docs(owner).items():
            part["properties"][name]["description"] = text  # draft 2020-12 allows keywords next to a $ref
        if headers:
            part["properties"] = {name: _without_null(value) for name, value in part["properties"].items()}
    return schema


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    if "anyOf" not in schema:
        return schema
    rest = {name: value for name, value in schema.items() if name not in {"anyOf", "default"}}
    (kind,) = [option for option in schema["anyOf"] if option != {"type": "null"}]
    return {**kind, **rest}


def _field_docs(struct: type[msgspec.Struct]) -> dict[str, str]:
    """The strings below a struct's fields, by the field's name on the wire."""
    wire = {field.name: field.encode_name for field in msgspec.structs.fields(struct)}
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(struct))).body
    assert isinstance(tree, ast.ClassDef)
    docs: dict[str, str] = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ) if name in wire:
                docs[wire[name]] = _plain(text)
    return docs


def _plain(docstring: str) -> str:
    return inspect.cleandoc(docstring).replace("``", "`")


if __name__ == "__main__":
    for written in write():
        print(written)
