"""Reference: topics, messages and files, from the AsyncAPI document and the published JSON Schemas."""

from pathlib import Path
from typing import Any

import yaml

from layercache.schemas.publish import documents

_ASYNCAPI = Path(__file__).parents[2] / "schemas" / "asyncapi.yaml"

_HEAD = """# Messages and files

Everything that crosses a process boundary. Machines read [`schemas/asyncapi.yaml`](../../schemas/asyncapi.yaml)
(AsyncAPI 3) and the JSON Schemas under [`schemas/json/`](../../schemas/json); this page is made from both. Tensors are
safetensors, text is JSON, and nothing is ever unpickled.
What may change between versions, and what readers must do about it: [upgrades](../upgrades.md).

## Topics

| topic | key | what |
|---|---|---|
"""

_TITLES = {
    "frame-headers": "A frame's headers",
    "prediction": "A prediction",
    "dead-letter-headers": "A dead letter's headers",
    "distillation-header": "A distillation record's header",
    "manifest": "A version's manifest",
    "pin": "What an operator holds",
}
_WHERE = {
    "frame-headers": "Topic `frames`; all are optional. The value is the picture as it is.",
    "prediction": "Topic `predictions`; the value, as JSON.",
    "dead-letter-headers": "Topic `frames.dlq`; beside the frame's own. The value is the frame's, untouched; it is "
    "left out where it would not fit the topic.",
    "distillation-header": "Topic `distillation`; JSON in the metadata of a safetensors record.",
    "manifest": "Store, `<model>/<version>/manifest.json`.",
    "pin": "Store, `<model>/PIN`.",
}


def page() -> str:
    """Markdown: the topics, then a section for each schema, with a table for each type in it.

    >>> "## A prediction" in page() and "| `class_name` | string | yes |" in page()
    True
    """
    parts = [_HEAD + "\n".join(_topics())]
    schemas = documents()
    for name, title in _TITLES.items():
        parts.append(f"\n## {title}\n\n{_WHERE[name]} Schema: [`{name}.json`](../../schemas/json/{name}.json).\n")
        top = schemas[name]["$ref"].rpartition("/")[2]
        definitions = schemas[name]["$defs"]
        parts += [_table(owner, definitions[owner]) for owner in sorted(definitions, key=lambda one: one != top)]
    return "\n".join(parts)


def _topics() -> list[str]:
    document = yaml.safe_load(_ASYNCAPI.read_text(encoding="utf-8"))
    rows = []
    for channel in document["channels"].values():
        keys = {_key(document, message["$ref"]) for message in channel["messages"].values()}
        rows.append(f"| `{channel['address']}` | {'; '.join(sorted(keys))} | {_flat(channel['description'])} |")
    return rows


def _key(document: dict[str, Any], reference: str) -> str:
    """The description of a record's key, from the message or a trait that it shares with others."""
    components = document["components"]
    message = components["messages"][reference.rpartition("/")[2]]
    traits = [components["messageTraits"][trait["$ref"].rpartition("/")[2]] for trait in message.get("traits", ())]
    found = [part["bindings"]["kafka"]["key"] for part in (message, *traits) if "bindings" in part]
    key = found[0] if found else {}
    if "$ref" in key:
        key = components["schemas"][key["$ref"].rpartition("/")[2]]
    return _flat(key.get("description", ""))


def _table(owner: str, schema: dict[str, Any]) -> str:
    """One type: its fields in order."""
    required = set(schema.get("required", ()))
    lines = [f"### {owner}\n" if owner else "", _flat(schema.get("description", "")) + "\n"]
    if "enum" in schema:
        lines.append(", ".join(f"`{value}`" for value in schema["enum"]) + ".")
    if "properties" in schema:
        lines += ["| field | type | required | meaning |", "|---|---|---|---|"]
    for name, field in schema.get("properties", {}).items():
        default = f" Default: `{field['default']}`." if field.get("default") not in (None, "", [], {}) else ""
        needed = "yes" if name in required else ""
        lines.append(f"| `{name}` | {_kind(field)} | {needed} | {_flat(field.get('description', ''))}{default} |")
    return "\n".join(lines) + "\n"


def _kind(field: dict[str, Any]) -> str:
    """A field's type in words."""
    if "$ref" in field:
        return str(field["$ref"].rpartition("/")[2])
    if "anyOf" in field:
        return " or ".join(_kind(option) for option in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        items = field.get("items")
        return f"list of {_kind(items)}" if isinstance(items, dict) and items else "list"
    if field.get("type") == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"table of {_kind(field['additionalProperties'])}"
    return str(field.get("type", "any"))


def _flat(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
