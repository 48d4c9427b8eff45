"""Checks the topics: do they exist, with the right record size, retention, partitions and replicas?"""

from collections.abc import Iterator

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import ClusterMetadata, TopicMetadata
from confluent_kafka.admin._resource import ResourceType

from layercache.doctor.broker import Configs, read_configs
from layercache.doctor.checks import Area, Finding
from layercache.schemas.settings import Settings
from layercache.stream.kafka.topics import Wanted, wanted_topics

AREA = Area("topics")
_HOUR_MS = 3_600_000


def check(settings: Settings, client: AdminClient, metadata: ClusterMetadata) -> Iterator[Finding]:
    """Checks the four topics, one after the other."""
    wanted = wanted_topics(settings)
    existing = [
        topic for topic in wanted if topic.name in metadata.topics and metadata.topics[topic.name].error is None
    ]
    configs = read_configs(client, ResourceType.TOPIC, [topic.name for topic in existing]) if existing else {}
    for topic in wanted:
        if topic not in existing:
            yield AREA.error(
                topic.name, "there is no such topic that this user may see",
                "`layercache topics create`, or give the user rights on it",
            )  # fmt: skip
            continue
        known, config = metadata.topics[topic.name], configs.get(topic.name, {})
        faults = [*_placement(topic.name, known, config), *_fit(topic, known, config)]
        yield from faults
        if not any(fault.state == "error" for fault in faults):
            yield AREA.ok(topic.name, _found(known, config))


def _found(known: TopicMetadata, config: Configs) -> str:
    replicas = min((len(one.replicas) for one in known.partitions.values()), default=0)
    parts = [f"partitions: {len(known.partitions)}", f"replicas: {replicas}"]
    if "min.insync.replicas" in config:
        parts.append(f"min.insync.replicas {config['min.insync.replicas']}")
    if "max.message.bytes" in config:
        parts.append(f"records up to {int(config['max.message.bytes']):,} bytes")
    if "retention.ms" in config:
        parts.append(f"kept {_time(int(config['retention.ms']))}")
    return ", ".join(parts)


def _placement(topic: str, known: TopicMetadata, config: Configs) -> Iterator[Finding]:
    """Faults of leaders and replicas."""
    parts = known.partitions
    lost = [number for number, one in parts.items() if one.leader < 0]
    if lost:
        yield AREA.error(topic, f"partitions {_numbers(lost)} have no leader", "start the brokers that hold them")
        return
    behind = [number for number, one in parts.items() if len(one.isrs) < len(one.replicas)]
    least = int(config.get("min.insync.replicas", 1))
    short = [number for number, one in parts.items() if len(one.isrs) < least]
    if short:
        yield AREA.error(
            topic,
            f"partitions {_numbers(short)} have fewer than min.insync.replicas = {least} replicas in sync: nothing can "
            "be written to them",
            "start the brokers that are missing, or lower min.insync.replicas to what there is",
        )
    elif behind:
        yield AREA.warning(
            topic, f"partitions {_numbers(behind)} have replicas that are behind",
            "look at the brokers: one is down or slow",
        )  # fmt: skip
    if least == 1 and min((len(one.replicas) for one in parts.values()), default=0) >= 3:
        yield AREA.warning(
            topic, "with min.insync.replicas = 1 a broker that fails can lose what was acknowledged",
            "set the topic's min.insync.replicas to 2",
        )  # fmt: skip


def _fit(topic: Wanted, known: TopicMetadata, config: Configs) -> Iterator[Finding]:
    """Where the topic differs from the settings."""
    size, asked = config.get("max.message.bytes"), int(topic.config["max.message.bytes"])
    if size is not None and int(size) < asked:
        yield AREA.error(
            topic.name, f"takes records of at most {int(size):,} bytes, workers may send {asked:,}",
            f"set the topic's max.message.bytes to {asked}, or lower topics.max_record_bytes",
        )  # fmt: skip
    if len(known.partitions) != topic.partitions:
        yield AREA.warning(
            topic.name, f"has {len(known.partitions)} partitions, the settings ask for {topic.partitions}",
            "set topics.partitions to what it has; more partitions would move keys to others",
        )  # fmt: skip
    if "compact" in config.get("cleanup.policy", "delete"):
        yield AREA.error(
            topic.name, "is compacted: of each key only the latest record stays", "set its cleanup.policy to delete"
        )
    kept, wanted = config.get("retention.ms"), topic.config.get("retention.ms")
    if kept is not None and wanted is not None and not 0 <= int(kept) <= int(wanted):
        yield AREA.warning(
            topic.name, f"keeps frames {_time(int(kept))}, not {_time(int(wanted))} as in the settings",
            f"privacy: set the topic's retention.ms to {wanted}",
        )  # fmt: skip


def _time(ms: int) -> str:
    if ms < 0:
        return "for ever"
    return f"for {ms / _HOUR_MS:g} h" if ms % _HOUR_MS == 0 else f"for {ms / 1000:g} s"


def _numbers(numbers: list[int]) -> str:
    return ", ".join(map(str, sorted(numbers)[:10])) + (", …" if len(numbers) > 10 else "")
