"""What the examples in docstrings may use without making it: the demo's classifier, and heads for it.

``traced`` is that of the package's own example, see :mod:`early_exit`; ``heads`` has one exit, at ``layer2``, which
has learnt nothing and lets every frame go.
"""

from functools import cache
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent


@cache
def _names() -> dict[str, object]:
    from layercache.early_exit.cutting import cuts
    from layercache.early_exit.heads.families import build_head
    from layercache.early_exit.heads.loading import load_heads, tensor_names
    from layercache.early_exit.model import loading  # torch takes seconds, and most runs need no examples
    from layercache.schemas.manifest import Exit, HeadSpec, Manifest
    from layercache.schemas.settings import Model

    traced = cuts.trace(loading.load(Model(spec=f"{_ROOT}/examples/fashion_mnist.py:build")))
    spec = HeadSpec(family="pooled", features=traced.cut("layer2").shape, classes=10)
    exit_ = Exit(cut="layer2", head=spec, temperature=1.0, threshold=0.0, flops_share=0.48, time_share=0.5)
    manifest = Manifest(
        version="v1", model=traced.classifier.fingerprint, model_name="fashion-mnist", created="2026-01-01T00:00:00Z",
        reason="first", predecessor=None, exits=(exit_,), audit_rate=0.1, certificate=None, expected=None,
    )  # fmt: skip
    return {"traced": traced, "heads": load_heads(manifest, tensor_names("layer2", build_head(spec)), traced)}


@pytest.fixture(autouse=True)
def names_of_examples(request: pytest.FixtureRequest) -> None:
    """Gives the names to examples alone, and lets them name files by their paths in the repository."""
    if isinstance(request.node, pytest.DoctestItem):
        request.getfixturevalue("monkeypatch").chdir(_ROOT)
        request.getfixturevalue("doctest_namespace").update(_names())
