"""The order of the checks: each area has a deadline of its own, and uses what earlier areas found."""

from collections.abc import Callable, Iterator

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import ClusterMetadata

from layercache.doctor import broker, groups, heads, machine, model, store, topics
from layercache.doctor.checks import Finding, findings_within
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.schemas.settings import Settings

#: Models are large and disks are slow; everything else answers soon or not at all.
_MODEL_S, _QUICK_S, _STORE_S, _BROKER_S, _TOPICS_S, _GROUPS_S = 180.0, 10.0, 20.0, 12.0, 12.0, 25.0


def check_all(settings: Settings, on_area: Callable[[str], None] = lambda area: None) -> Iterator[Finding]:
    """All findings, as they come; calls ``on_area`` with the name of each area before its checks.

    Loads the model's weights, since the fingerprint tells which heads belong to it.
    """
    traced: list[TracedModel] = []
    reached: list[tuple[AdminClient, ClusterMetadata]] = []
    on_area("machine")
    yield from findings_within(_QUICK_S, machine.AREA, lambda: machine.check(settings))
    on_area("model")
    yield from findings_within(_MODEL_S, model.AREA, lambda: model.check(settings, traced.append))
    on_area("store")
    store_found = list(findings_within(_STORE_S, store.AREA, lambda: store.check(settings)))
    yield from store_found
    on_area("heads")
    if not traced:
        yield heads.AREA.skipped("live version", "the model could not be loaded: whose heads is not known")
    elif any(one.check in ("reach", "time") and one.state == "error" for one in store_found):
        yield heads.AREA.skipped("live version", "the store does not answer")
    else:
        yield from findings_within(_STORE_S, heads.AREA, lambda: heads.check(settings, traced[0]))
    on_area("broker")
    yield from findings_within(
        _BROKER_S, broker.AREA, lambda: broker.check(settings, lambda *found: reached.append(found))
    )
    if not reached:
        yield topics.AREA.skipped("topics", "the broker does not answer")
        yield groups.AREA.skipped("groups", "the broker does not answer")
        return
    on_area("topics")
    yield from findings_within(_TOPICS_S, topics.AREA, lambda: topics.check(settings, *reached[0]))
    on_area("groups")
    yield from findings_within(
        _GROUPS_S, groups.AREA, lambda: groups.check(settings, traced[0].classifier.fingerprint if traced else None)
    )
