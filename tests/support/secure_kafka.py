"""An Apache Kafka node that asks for TLS and SASL, and whose users may do no more than they are given.

Listeners: SASL_SSL with SCRAM-SHA-512 and OAUTHBEARER (unsecured tokens, for tests), and SSL with client certificates.
"""

import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType
from confluent_kafka.admin._resource import ResourceType as Resource

from layercache.schemas.settings import Kafka, Topics
from testbed.apache_kafka import KafkaNode, Place
from testbed.ports import free_ports
from tests.support.certificates import Authority

ADMIN, WORKER, STRANGER = "admin", "worker", "stranger"
PASSWORDS = {user: f"password-of-{user}-{uuid.uuid4().hex}" for user in (ADMIN, WORKER, STRANGER)}

_PACKAGE = "org.apache.kafka.common.security"


def _properties(place: Place, mutual: int, authority: Authority) -> dict[str, str]:
    """What makes a node ask who is there; ``mutual`` is the port where it asks for a client's certificate."""
    sasl, scram = "listener.name.sasl_ssl", f"{_PACKAGE}.scram.ScramLoginModule"
    tokens = f"{_PACKAGE}.oauthbearer"
    listeners = f"SASL_SSL://localhost:{place.broker},SSL://localhost:{mutual}"
    return {
        "listeners": f"{listeners},CONTROLLER://localhost:{place.controller}",
        "advertised.listeners": listeners,
        "inter.broker.listener.name": "SASL_SSL",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(authority.issue("localhost", "broker").together),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.ca),
        "listener.name.ssl.ssl.client.auth": "required",
        "listener.name.ssl.ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512,OAUTHBEARER",
        "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
        f"{sasl}.scram-sha-512.sasl.jaas.config": f'{scram} required username="{ADMIN}" password="{PASSWORDS[ADMIN]}";',
        f"{sasl}.oauthbearer.sasl.jaas.config": f"{tokens}.OAuthBearerLoginModule required "
        f'unsecuredLoginStringClaim_sub="{ADMIN}";',
        f"{sasl}.oauthbearer.sasl.server.callback.handler.class": f"{tokens}.internals.unsecured"
        ".OAuthBearerUnsecuredValidatorCallbackHandler",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:{ADMIN};User:ANONYMOUS",
    }


class SecureKafka:
    """The node, for as long as the ``with`` block runs."""

    def __init__(self, home: Path, folder: Path) -> None:
        self._authority = Authority(folder / "certificates")
        (self._mutual,) = free_ports(1)
        place = Place.free(1)
        self._sasl = place.broker
        properties = _properties(place, self._mutual, self._authority)
        client = self.scram(ADMIN).options
        self._node = KafkaNode(
            home, folder, place, properties=properties, starts_quickly=True, passwords=PASSWORDS, client=client
        )

    def __enter__(self) -> Self:
        self._node.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._node.stop()

    @property
    def ca(self) -> Path:
        """The certificate that clients must trust."""
        return self._authority.ca

    def scram(self, user: str = WORKER, **changes: str) -> Kafka:
        """Settings of a client that logs in with SCRAM; ``changes`` are options, ``_`` for ``.``."""
        options = {
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(self.ca),
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": user,
            "sasl.password": PASSWORDS[user],
        } | {name.replace("_", "."): value for name, value in changes.items()}
        return Kafka(bootstrap_servers=f"localhost:{self._sasl}", options=dict(options))

    def oauth(self, user: str = WORKER) -> Kafka:
        """Settings of a client that makes its own unsecured tokens."""
        return self._with_tokens(
            {"enable.sasl.oauthbearer.unsecure.jwt": "true", "sasl.oauthbearer.config": f"principal={user}"}
        )

    def oidc(self, url: str, secret: str, user: str = WORKER) -> Kafka:
        """Settings of a client that fetches its tokens from ``url``, as ``user``."""
        return self._with_tokens(
            {
                "sasl.oauthbearer.method": "oidc",
                "sasl.oauthbearer.token.endpoint.url": url,
                "sasl.oauthbearer.client.id": user,
                "sasl.oauthbearer.client.secret": secret,
            }
        )

    def mutual_tls(self, user: str = WORKER) -> Kafka:
        """Settings of a client that shows a certificate."""
        identity = self._authority.issue("client", user)
        return Kafka(
            bootstrap_servers=f"localhost:{self._mutual}",
            options={
                "security.protocol": "SSL",
                "ssl.ca.location": str(self.ca),
                "ssl.certificate.location": str(identity.certificate),
                "ssl.key.location": str(identity.key),
            },
        )

    def allow(
        self, user: str, topics: Topics, groups: tuple[str, ...], without: tuple[str, ...] = (), lacks: str = ""
    ) -> None:
        """Gives ``user`` what workers and trainers need, but for topics ``without``, or ``lacks``: a kind of right."""
        used = [topics.frames, topics.predictions, topics.distillation, topics.dead_letters]
        rights = [
            (Resource.TOPIC, name, operation)
            for name in used
            if name not in without
            for operation in (AclOperation.READ, AclOperation.WRITE, AclOperation.DESCRIBE)
        ]
        if lacks != "group":
            rights += [(Resource.GROUP, group, AclOperation.READ) for group in groups]
        if lacks != "transactional.id":  # which begins with the group's name
            rights += [
                (Resource.TRANSACTIONAL_ID, group, operation)
                for group in groups
                for operation in (AclOperation.WRITE, AclOperation.DESCRIBE)
            ]
        self._give(user, rights)

    def allow_describe(self, user: str, topic: str) -> None:
        """Lets ``user`` see that there is such a topic."""
        self._give(user, [(Resource.TOPIC, topic, AclOperation.DESCRIBE)])

    def _give(self, user: str, rights: list[tuple[Resource, str, AclOperation]]) -> None:
        bindings = [
            AclBinding(
                kind,
                name,
                ResourcePatternType.PREFIXED if kind == Resource.TRANSACTIONAL_ID else ResourcePatternType.LITERAL,
                f"User:{user}",
                "*",
                operation,
                AclPermissionType.ALLOW,
            )
            for kind, name, operation in rights
        ]
        admin = self.admin()
        for done in admin.create_acls(bindings).values():
            done.result(30)

    def admin(self) -> AdminClient:
        """A client that may do everything."""
        kafka = self.scram(ADMIN)
        return AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0, **kafka.options})

    def _with_tokens(self, options: dict[str, str]) -> Kafka:
        common = {"security.protocol": "SASL_SSL", "ssl.ca.location": str(self.ca), "sasl.mechanism": "OAUTHBEARER"}
        return Kafka(bootstrap_servers=f"localhost:{self._sasl}", options={**common, **options})
