"""How the dashboard shows versions of heads: what each changed, which is in force, and alarms of drift."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from layercache.dashboard.heads_state import Alarm, Changes, Heads, Moved, Version
from layercache.early_exit.store.head_store import Live
from layercache.schemas.manifest import Manifest, Pin


def changes(manifest: Manifest, before: Manifest | None) -> Changes:
    """What a version changed; ``before`` is its predecessor, None where it had none or the store no longer has it.

    >>> changes(heads.manifest, None).summary
    'opens layer2'
    """
    if before is None and manifest.predecessor is not None:
        kept = ", ".join(exit_.cut for exit_ in manifest.exits) or "none"
        return Changes(summary=f"exits at {kept}; what it followed is no longer in the store")
    own = {exit_.cut: exit_ for exit_ in manifest.exits}
    old = {exit_.cut: exit_ for exit_ in before.exits} if before else {}
    both = [cut for cut in own if cut in old]
    moved = tuple(
        Moved(cut=cut, before=old[cut].threshold, after=own[cut].threshold)
        for cut in both
        if own[cut].threshold != old[cut].threshold
    )
    had, has = bool(before and before.overload), bool(manifest.overload)
    found = Changes(
        opened=tuple(cut for cut in own if cut not in old),
        closed=tuple(cut for cut in old if cut not in own),
        moved=moved,
        replaced=tuple(cut for cut in both if own[cut].head != old[cut].head),
        overload="" if had == has else "added" if has else "dropped",
    )
    return msgspec.structs.replace(found, summary=_sentence(found, bool(manifest.exits)))


def heads(
    manifests: Sequence[Manifest],
    live: Live,
    latest: str | None,
    pin: Pin | None,
    attempts: int,
    store: str,
    sentence: str,
) -> Heads:
    """All versions, ``manifests`` newest first, and what is in force, which ``sentence`` says in words."""
    by_name = {manifest.version: manifest for manifest in manifests}
    return Heads(
        store=store,
        versions=tuple(
            _version(manifest, by_name.get(manifest.predecessor or ""), live, latest) for manifest in manifests
        ),
        live=live.version,
        latest=latest,
        closed=live.closed,
        pinned=live.pinned,
        pin_reason=pin.reason if pin else "",
        attempts=attempts,
        sentence=sentence,
    )


def alarms(manifests: Sequence[Manifest], live: str | None) -> tuple[Alarm, ...]:
    """Alarms of drift, newest first: versions that the trainer published because the one before exceeded its budget.

    An alarm is active while its version is in force: a later version has learnt the stream as it is now.
    """
    found = []
    for manifest in manifests:
        before = manifest.predecessor or "the version before"
        if manifest.reason == "unsafe":
            message = f"the exits of {before} exceeded their budget: the trainer closed them all, and learns again"
        elif manifest.reason == "overload-unsafe":
            message = f"the thresholds for overload of {before} exceeded their budget: the trainer dropped them"
        else:
            continue
        found.append(
            Alarm(
                kind=manifest.reason,
                where=manifest.version,
                at_ms=_milliseconds(manifest.created),
                active=manifest.version == live,
                message=message,
            )
        )
    return tuple(found)


def _version(manifest: Manifest, before: Manifest | None, live: Live, latest: str | None) -> Version:
    expected, certificate = manifest.expected, manifest.certificate
    return Version(
        version=manifest.version,
        created_ms=_milliseconds(manifest.created),
        reason=manifest.reason,
        predecessor=manifest.predecessor,
        exits=tuple(exit_.cut for exit_ in manifest.exits),
        hit_rate=expected.hit_rate if expected else None,
        flops_saved=expected.flops_saved if expected else None,
        time_saved=expected.time_saved if expected else None,
        upper_bound=certificate.upper_bound if certificate else None,
        changes=changes(manifest, before),
        live=manifest.version == live.version,
        latest=manifest.version == latest,
        pinned=live.pinned and manifest.version == live.version,
    )


def _sentence(found: Changes, is_open: bool) -> str:
    """The changes in words, the most important first."""
    parts = []
    if found.opened:
        parts.append(f"opens {', '.join(found.opened)}")
    if found.closed:
        parts.append(f"closes {', '.join(found.closed)}")
    parts += [f"{one.cut} from {one.before:.4f} to {one.after:.4f}" for one in found.moved]
    if found.replaced:
        parts.append(f"another head at {', '.join(found.replaced)}")
    if found.overload:
        parts.append(f"{'adds' if found.overload == 'added' else 'drops'} thresholds for overload")
    return "; ".join(parts) or ("heads learnt further" if is_open else "every exit stays closed")


def _milliseconds(created: str) -> int | None:
    """Milliseconds since the epoch of an RFC 3339 time; None for any other text."""
    try:
        return int(datetime.fromisoformat(created).timestamp() * 1000)
    except ValueError:
        return None
