"""Heads for the tiny model that were never learnt: they let every frame leave, and name what they are told to."""

import torch

from layercache.early_exit.cutting import cuts
from layercache.early_exit.heads.families import build_head
from layercache.early_exit.heads.loading import tensor_names
from layercache.early_exit.model import loading
from layercache.early_exit.store.head_store import HeadStore, open_store
from layercache.schemas.manifest import Exit, HeadSpec, Manifest, Overload
from layercache.schemas.settings import Settings
from tests.support.manifests import certified
from tests.support.tiny_model import CLASSES


def store_of(settings: Settings) -> HeadStore:
    """The store of the heads of the settings' model."""
    classifier = loading.load(settings.model)
    return open_store(settings.store, classifier.name, classifier.fingerprint)


def publish_heads(
    settings: Settings,
    version: str,
    label: str,
    audit_rate: float = 0.0,
    threshold: float = 0.0,
    model: str = "",
    overload: Overload | None = None,
) -> Manifest:
    """Publishes a version whose one exit answers ``label`` to every frame; ``model`` claims another fingerprint."""
    classifier = loading.load(settings.model)
    cut = cuts.trace(classifier).proposed[0]
    spec = HeadSpec(family="pooled", features=cut.shape, classes=len(CLASSES))
    head = build_head(spec)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.classify.bias[CLASSES.index(label)] = 9.0  # type: ignore[union-attr,operator]
    manifest = Manifest(
        version=version,
        model=model or classifier.fingerprint,
        model_name=classifier.name,
        created="2026-01-01T00:00:00Z",
        reason="first",
        predecessor=None,
        exits=(Exit(cut=cut.name, head=spec, temperature=1.0, threshold=threshold, flops_share=0.3, time_share=0.3),),
        audit_rate=audit_rate,
        certificate=certified(),
        expected=None,
        overload=overload,
    )
    return store_of(settings).publish(manifest, tensor_names(cut.name, head))
