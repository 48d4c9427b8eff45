"""Which workers share a consumer group: each one's ``client.id`` names its model and itself.

Workers of different models in one group answer its frames between them, and nothing in the group protocol says so.
"""

import logging
import threading
from collections.abc import Callable, Iterable

from confluent_kafka import KafkaException

from layercache.schemas.settings import Settings
from layercache.stream.kafka.clients import (
    CLIENT_ID,
    CLIENTS,
    ClientFactory,
    Config,
    KafkaUnusable,
    admin_client,
    describe_error,
)

log = logging.getLogger(__name__)

#: Digits of a fingerprint, as many as the log shows.
_SHOWN = 12
_LOOK_EVERY_S = 1.0
_REQUEST_S = 5.0


def client_id(fingerprint: str, worker: str) -> str:
    """The ``client.id`` of a worker's clients.

    >>> client_id("3f9a52c1e0b7d4", "worker-0")
    'layercache.3f9a52c1e0b7.worker-0'
    """
    return f"{CLIENT_ID}.{fingerprint[:_SHOWN]}.{worker}"


def model_of(name: str) -> str | None:
    """The model's fingerprint, shortened, in a ``client.id``; None where it is none of :func:`client_id`.

    >>> model_of("layercache.3f9a52c1e0b7.host.example-1f"), model_of("layercache"), model_of("rdkafka")
    ('3f9a52c1e0b7', None, None)
    """
    first, _, rest = name.partition(".")
    model, dot, _ = rest.partition(".")
    return model if first == CLIENT_ID and dot and model else None


def models_of(names: Iterable[str]) -> list[str]:
    """The models that the members of a group run, by their ``client.id``, each once, in order."""
    return sorted({model for name in names if (model := model_of(name)) is not None})


def named_clients(name: str, clients: ClientFactory = CLIENTS) -> ClientFactory:
    """The same clients under this ``client.id``, where the settings give none."""

    def named(config: Config) -> Config:
        return config | {"client.id": name} if config.get("client.id") == CLIENT_ID else config

    return ClientFactory(
        consumer=lambda config: clients.consumer(named(config)),
        producer=lambda config: clients.producer(named(config)),
        admin=lambda config: clients.admin(named(config)),
    )


class GroupCheck:
    """Warns a worker, once it has joined its group, of members that run another model.

    The newcomer is the one that warns. It asks by ``list_groups``, which knows members of the classic protocol alone:
    other requests about groups can end the whole process where the broker goes away (confluentinc/librdkafka #4605).
    """

    def __init__(self, settings: Settings, fingerprint: str, joined: Callable[[], bool]) -> None:
        self._settings = settings
        self._model = fingerprint[:_SHOWN]
        self._joined = joined
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="group-check", daemon=True)

    def start(self) -> None:
        """Looks once, as soon as the worker has joined."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; leaves it behind where it waits for a broker."""
        self._stop.set()

    def look(self) -> list[str]:
        """Asks for the group's members and warns where some run another model; returns those models."""
        group = self._settings.worker.group_id
        try:
            client = admin_client(self._settings)
            found = client.list_groups(group, timeout=_REQUEST_S)
        except (KafkaException, KafkaUnusable) as error:
            why = describe_error(error.args[0]) if isinstance(error, KafkaException) else error
            log.info("cannot see who else is in group %s: %s", group, why)
            return []
        members = [str(member.client_id) for one in found if one.id == group for member in one.members]
        others = [model for model in models_of(members) if model != self._model]
        if others:
            log.warning(
                "group %s has workers of another model, %s, beside this one's, %s: each answers some of the frames. "
                "That is meant while a new model is rolled out; else give each model a worker.group_id of its own",
                group, ", ".join(others), self._model,
            )  # fmt: skip
        return others

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_EVERY_S):
            if self._joined():
                self.look()
                return
