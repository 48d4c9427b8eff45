"""The demo's settings: the one place where they are chosen. They are written as TOML into the report's folder."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layercache.schemas.settings import Settings

_EXAMPLES = Path(__file__).parents[2] / "examples"

#: Frames that the demo has, and a pace at which they take about three minutes and leave the trainer its share.
FRAMES = 10_000
RATE = 55.0


class AssetsMissing(FileNotFoundError):
    """The demo's model or frames are not where a clone of the repository has them."""


@dataclass(frozen=True)
class Assets:
    """The demo's model and frames."""

    model: Path
    frames: Path
    label_pattern: str = r"\d+-(?P<label>.+)\.webp"
    """Finds the class in a frame's name, ``00017-bag.webp``."""


def find_assets(folder: Path = _EXAMPLES) -> Assets:
    """The assets in ``folder``. Raises :class:`AssetsMissing`."""
    assets = Assets(folder / "fashion_mnist.py", folder / "fashion-mnist-frames.zip")
    needed = (assets.model, assets.model.with_suffix(".toml"), assets.model.with_suffix(".safetensors"), assets.frames)
    for path in needed:
        if not path.is_file():
            raise AssetsMissing(
                f"no {path}: the demo's model and frames come with a clone of the repository, in examples/; "
                "install from there (pip install -e '.[demo]') and run it again"
            )
    return assets


def choose(
    assets: Assets, bootstrap_servers: str, folder: Path, seed: int, metrics_port: int | None = None
) -> dict[str, dict[str, Any]]:
    """Section to option to value: what differs from the defaults. ``folder`` holds the heads and the trainer's state.

    Worker and trainer get a thread each: two cores are the least that most machines have.
    """
    chosen: dict[str, dict[str, Any]] = {
        "kafka": {
            "bootstrap_servers": bootstrap_servers,
            # a group's first member waits for half of this on the embedded broker
            "consumer_options": {"session.timeout.ms": 2_000, "heartbeat.interval.ms": 500},
        },
        "topics": {"partitions": 4},
        "model": {"spec": f"{assets.model}:build"},
        "promise": {"max_disagreement": 0.01, "confidence": 0.95},
        "store": {
            "url": f"file://{(folder / 'heads').resolve()}",
            "keep_last": 1_000,  # the report tells what every version did
            "poll_s": 0.5,
        },
        "worker": {
            "group_id": "layercache-demo",
            "worker_id": "demo",
            "torch_threads": 1,
            "decode_threads": 1,
            # fuller micro-batches leave more of the machine to the trainer
            "max_wait_ms": 200.0,
        },
        "trainer": {
            "group_id": "layercache-demo-trainer",
            "state_dir": str((folder / "trainer-state").resolve()),
            "torch_threads": 1,
            "seed": seed,
        },
    }
    if metrics_port is not None:
        chosen["worker"]["metrics_port"] = metrics_port
    return chosen


def build(chosen: Mapping[str, Mapping[str, Any]]) -> Settings:
    """The settings of ``chosen`` and the defaults alone, whatever ``LAYERCACHE_*`` variables are set."""
    whole = {
        section: field.annotation(**chosen.get(section, {})).model_dump()  # type: ignore[misc]  # a section's class
        for section, field in Settings.model_fields.items()
    }
    return Settings(**whole)


def toml(chosen: Mapping[str, Mapping[str, Any]]) -> str:
    """``chosen`` as a settings file.

    >>> print(toml({"worker": {"max_batch": 8}}), end="")
    [worker]
    max_batch = 8
    """
    sections = (
        f"[{section}]\n" + "".join(f"{name} = {_toml_value(value)}\n" for name, value in options.items())
        for section, options in chosen.items()
    )
    return "\n".join(sections)


def environment() -> dict[str, str]:
    """The children's environment: this process's without ``LAYERCACHE_*``, whose place the settings file takes."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("LAYERCACHE_")}
    return kept | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}


def _toml_value(value: object) -> str:
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_toml_value(str(name))} = {_toml_value(item)}" for name, item in value.items())
        return f"{{ {pairs} }}"
    # a JSON string, number or boolean is a TOML one, once nothing is escaped as surrogates
    return json.dumps(value, ensure_ascii=False)
