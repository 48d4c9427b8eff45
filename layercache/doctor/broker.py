"""Checks the broker: does it answer, does it accept the login, can it do transactions?"""

from collections.abc import Callable, Iterator
from time import perf_counter

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._metadata import ClusterMetadata
from confluent_kafka.admin._resource import ResourceType

from layercache.doctor.checks import Area, Finding
from layercache.schemas.settings import Settings
from layercache.stream.kafka.clients import KafkaUnusable, Troubles, admin_client
from layercache.stream.kafka.delivery_options import refused_options
from layercache.stream.kafka.reach import cluster

AREA = Area("broker")
PATIENCE_S = 5.0
_REQUEST_S = 5.0
_HERE = ("localhost", "127.", "[::1]")
_TRANSACTIONS = "__transaction_state"

Configs = dict[str, str]


def check(settings: Settings, on_connected: Callable[[AdminClient, ClusterMetadata], None]) -> Iterator[Finding]:
    """Connects, and calls ``on_connected`` with the client and the cluster's metadata."""
    troubles = Troubles()
    servers = settings.kafka.bootstrap_servers
    yield from _logins(settings)
    yield from _options(settings)
    try:
        client = admin_client(settings, troubles)
        began = perf_counter()
        metadata = cluster(client, settings, troubles, patience_s=PATIENCE_S)
    except KafkaUnusable as error:
        what, _, advice = str(error).partition("; ")
        yield AREA.error("reach", what, advice or "check kafka.bootstrap_servers and kafka.options")
        return
    assert metadata is not None  # it is None only if something stops the wait, and nothing does
    spent = (perf_counter() - began) * 1000
    yield AREA.ok("reach", f"{servers} answers in {spent:.0f} ms: {_count(len(metadata.brokers), 'broker')}")
    on_connected(client, metadata)
    yield from _features(settings, client, metadata)


def _logins(settings: Settings) -> Iterator[Finding]:
    """How clients log in, and whether the trainer's client supports that login."""
    options = settings.kafka.options
    protocol = str(options.get("security.protocol", "PLAINTEXT")).upper()
    servers = settings.kafka.bootstrap_servers
    local = all(server.strip().startswith(_HERE) for server in servers.split(","))
    if protocol == "PLAINTEXT" and not local:
        yield AREA.warning(
            "login", f"none, and nothing is encrypted on the way to {servers}",
            "outside of a network of one's own: security.protocol = SASL_SSL; docs/security.md",
        )  # fmt: skip
    else:
        sasl = f" with {options.get('sasl.mechanism', options.get('sasl.mechanisms', 'PLAIN'))}"
        yield AREA.ok("login", protocol + (sasl if protocol.startswith("SASL") else ""))
    if protocol == "SASL_PLAINTEXT" and not local:
        yield AREA.warning("encryption", "passwords travel unencrypted", "security.protocol = SASL_SSL")
    from layercache.cache_training.service.credentials import credentials

    try:
        credentials(settings.kafka)
    except (ValueError, OSError) as error:
        yield AREA.error("trainer's login", str(error), "use a login that the trainer has, too; docs/security.md")


def _options(settings: Settings) -> Iterator[Finding]:
    """Options that make a worker end at once, since they void its delivery guarantee."""
    delivery, refused = settings.worker.delivery, refused_options(settings)
    for one in refused:
        yield AREA.error(
            "options", f"{one.name} = {one.value} ({one.source}) voids {delivery}: {one.rule.because}", one.rule.instead
        )
    if not refused:
        yield AREA.ok("options", f"none voids {delivery}")


def _features(settings: Settings, client: AdminClient, metadata: ClusterMetadata) -> Iterator[Finding]:
    """Whether the broker's configuration allows exactly-once delivery and the new group protocol."""
    broker = next(iter(sorted(metadata.brokers)), None)
    configs = (
        read_configs(client, ResourceType.BROKER, [str(broker)]).get(str(broker), {}) if broker is not None else {}
    )
    worker = settings.worker
    if worker.delivery == "exactly_once":
        yield _transactions(settings, configs, metadata)
    if worker.group_protocol == "consumer":
        protocols = configs.get("group.coordinator.rebalance.protocols", "")
        if configs and "consumer" not in protocols:
            yield AREA.error(
                "group protocol", "the broker does not offer `consumer` (KIP-848)",
                "set worker.group_protocol to classic, or run Apache Kafka 4.0 or later",
            )  # fmt: skip
        elif configs:
            yield AREA.ok("group protocol", f"offered: {protocols}")


def _transactions(settings: Settings, configs: Configs, metadata: ClusterMetadata) -> Finding:
    brokers, asked = len(metadata.brokers), settings.worker.transaction_timeout_ms
    if not configs:
        return AREA.warning(
            "transactions", "the broker does not tell its configuration: whether it can do them is not known",
            "exactly once needs Apache Kafka; the broker of `layercache broker` is for trying things out",
        )  # fmt: skip
    most = int(configs.get("transaction.max.timeout.ms", asked))
    if most < asked:
        return AREA.error(
            "transactions", f"worker.transaction_timeout_ms is {asked:,}, the broker allows {most:,}",
            "lower it, or raise the broker's transaction.max.timeout.ms",
        )  # fmt: skip
    if _TRANSACTIONS in metadata.topics:
        return AREA.ok("transactions", "the broker has done some")
    replicas = int(configs.get("transaction.state.log.replication.factor", 1))
    if replicas > brokers:
        return AREA.error(
            "transactions",
            f"their log wants {replicas} replicas (transaction.state.log.replication.factor), there "
            f"{'is' if brokers == 1 else 'are'} {_count(brokers, 'broker')}",
            "start more brokers, or set it to what there is; until then workers wait",
        )
    return AREA.ok("transactions", "the broker's configuration allows them; it has done none yet")


def read_configs(client: AdminClient, kind: ResourceType, names: list[str]) -> dict[str, Configs]:
    """Configuration of topics or brokers by name; leaves out those that the broker does not describe to this user."""
    found: dict[str, Configs] = {}
    futures = client.describe_configs([ConfigResource(kind, name) for name in names], request_timeout=_REQUEST_S)
    for resource, future in futures.items():
        try:
            entries = future.result()
        except KafkaException:
            continue
        found[resource.name] = {name: entry.value for name, entry in entries.items() if entry.value is not None}
    return found


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
