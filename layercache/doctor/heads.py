"""Checks the heads that workers use: are they signed, for this model, and certified for the settings' promise?"""

from collections.abc import Iterator
from datetime import UTC, datetime

from layercache.doctor.checks import Area, Finding
from layercache.doctor.store import local_folder
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.heads.families import HeadsError
from layercache.early_exit.heads.loading import load_heads
from layercache.early_exit.store.blobs import Blobs
from layercache.early_exit.store.head_store import HeadStore, SignatureError, StoreError, model_folder, open_store
from layercache.presenting.certificates import duration, tested_on
from layercache.schemas.manifest import Manifest
from layercache.schemas.settings import Settings

AREA = Area("heads")


def check(settings: Settings, traced: TracedModel) -> Iterator[Finding]:
    """Checks the live version, an operator's pin, and whether the settings fit the version."""
    classifier = traced.classifier
    try:
        store = open_store(settings.store, classifier.name, classifier.fingerprint)
        yield _signing(settings)
        live = store.live()
        if live.pinned:
            pin = store.pin_state()
            why = f" ({pin.reason})" if pin and pin.reason else ""
            what = "every exit is kept closed" if live.closed else f"workers are held at {live.version}"
            yield AREA.warning(
                "operator", f"{what}{why}", "`layercache heads unpin` lets workers follow the trainer again"
            )
        version = live.version or store.latest()
        if version is None:
            yield from _no_version(settings, store, classifier.name, classifier.fingerprint)
            return
        manifest, tensors = store.load(version)
        load_heads(manifest, tensors, traced)
    except SignatureError as error:
        yield AREA.error(
            "signature", str(error), "give workers the trainer's store.signing_key, or `layercache heads sign`"
        )
        return
    except HeadsError as error:
        yield AREA.error("fit", str(error), "`layercache heads rollback`, or let the trainer publish others")
        return
    except StoreError as error:
        yield AREA.error(
            "read", str(error), "`layercache heads list` shows what is there; roll back to a whole version"
        )
        return
    yield from _version(settings, manifest)


def _signing(settings: Settings) -> Finding:
    signed = settings.store.signing_key is not None or settings.store.signing_key_file is not None
    if signed:
        return AREA.ok("signing", "only heads with a right signature are used")
    if local_folder(settings.store.url) is not None:
        return AREA.ok("signing", "no key: everyone who may write to the folder decides what heads workers use")
    return AREA.warning(
        "signing", "no key: everyone who may write to the store decides what heads workers use",
        "set store.signing_key (or signing_key_file) for trainer and workers; docs/security.md",
    )  # fmt: skip


def _no_version(settings: Settings, store: HeadStore, name: str, fingerprint: str) -> Iterator[Finding]:
    """There is no version: the trainer has just begun, or the store holds another model's heads."""
    mine = model_folder(name, fingerprint)
    stem = mine.rpartition("-")[0]
    folder = local_folder(settings.store.url)
    root = Blobs(settings.store.url, ".", settings.store.options) if folder is None else Blobs(str(folder), ".")
    others = [other for other in root.list() if other.startswith(f"{stem}-") and other != mine]
    if others:
        yield AREA.warning(
            "live version",
            f"none for this model ({fingerprint[:12]}), but for {', '.join(others[:3])}: the same name, other weights, "
            "architecture or preprocessing",
            "give workers, trainer and doctor the same --model, --weights and --metadata; after an upgrade of the "
            "model this is as it should be until the trainer has certified new heads",
        )
    else:
        attempts = store.attempts()
        tried = f", after {attempts} attempts to certify" if attempts else ""
        yield AREA.ok("live version", f"none yet{tried}: every frame runs the full model until a trainer publishes one")


def _version(settings: Settings, manifest: Manifest) -> Iterator[Finding]:
    age = _age(manifest.created)
    exits = ", ".join(exit_.cut for exit_ in manifest.exits)
    if manifest.reason == "unsafe":
        yield AREA.warning(
            "live version",
            f"{manifest.version}, {age} old, keeps all exits closed: the one before exceeded its budget",
            "the stream has changed; the trainer learns it anew and opens what it can certify. docs/drift.md",
        )
    elif not manifest.exits:
        yield AREA.warning("live version", f"{manifest.version}, {age} old, has no exits", "`layercache heads list`")
    else:
        yield AREA.ok("live version", f"{manifest.version}, {age} old, exits at {exits}; they fit this model")
    certificate, promise = manifest.certificate, settings.promise
    if certificate is None:
        if manifest.exits:
            yield AREA.error(
                "certificate",
                f"{manifest.version} has none, so workers keep its exits closed",
                "check who wrote it to the store; `layercache heads rollback` takes the version before",
            )
        return
    found = (
        f"certified for {certificate.max_disagreement:.2%} at {certificate.confidence:.0%}, risk at most "
        f"{certificate.upper_bound:.2%} ({tested_on(certificate)})"
    )
    if certificate.covers(promise.max_disagreement, promise.confidence, promise.max_class_disagreement):
        yield AREA.ok("certificate", found)
    else:
        yield AREA.error(
            "certificate",
            f"{found}; the settings promise {promise.max_disagreement:.2%} at {promise.confidence:.0%}"
            + (f" and {promise.max_class_disagreement:.2%} by class" if promise.max_class_disagreement else ""),
            "workers keep its exits closed; restart the trainer with these settings, so that it certifies others, or "
            "promise less",
        )


def _age(created: str) -> str:
    """How long ago ``created`` was, in one unit."""
    try:
        return duration((datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds())
    except (ValueError, TypeError):
        return "an unknown time"
