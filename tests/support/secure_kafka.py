"""An Apache Kafka node that asks for TLS and SASL, and whose users may do no more than they are given.

Listeners: SASL_SSL with SCRAM-SHA-512 and OAUTHBEARER (unsecured tokens, for tests), and SSL with client certificates.
"""

import base64
import os
import signal
import subprocess
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType
from confluent_kafka.admin._resource import ResourceType as Resource

from schemas.settings import Kafka, Topics
from tests.support.certificates import Authority
from tests.support.ports import free_ports
from tests.support.waiting import wait_until

ADMIN, WORKER, STRANGER = "admin", "worker", "stranger"
PASSWORDS = {user: f"password-of-{user}-{uuid.uuid4().hex}" for user in (ADMIN, WORKER, STRANGER)}

_PACKAGE = "org.apache.kafka.common.security"
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=localhost:{controller}
listeners=SASL_SSL://localhost:{sasl},SSL://localhost:{mutual},CONTROLLER://localhost:{controller}
advertised.listeners=SASL_SSL://localhost:{sasl},SSL://localhost:{mutual}
inter.broker.listener.name=SASL_SSL
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={truststore}
listener.name.ssl.ssl.client.auth=required
listener.name.ssl.ssl.principal.mapping.rules=RULE:^CN=([^,]+).*$/$1/
sasl.enabled.mechanisms=SCRAM-SHA-512,OAUTHBEARER
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={package}.scram.ScramLoginModule required \
username="{admin}" password="{password}";
listener.name.sasl_ssl.oauthbearer.sasl.jaas.config={package}.oauthbearer.OAuthBearerLoginModule required \
unsecuredLoginStringClaim_sub="{admin}";
listener.name.sasl_ssl.oauthbearer.sasl.server.callback.handler.class=\
{package}.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:{admin};User:ANONYMOUS
log.dirs={logs}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=33554432
auto.create.topics.enable=false
"""


class SecureKafka:
    """The node, for as long as the ``with`` block runs."""

    def __init__(self, home: Path, folder: Path) -> None:
        self._home = home
        self._folder = folder
        self._authority = Authority(folder / "certificates")
        self._sasl, self._mutual, controller = free_ports(3)
        self._properties = folder / "server.properties"
        self._properties.write_text(
            _PROPERTIES.format(
                sasl=self._sasl,
                mutual=self._mutual,
                controller=controller,
                keystore=self._authority.issue("localhost", "broker").together,
                truststore=self._authority.ca,
                package=_PACKAGE,
                admin=ADMIN,
                password=PASSWORDS[ADMIN],
                logs=folder / "logs",
            )
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._format()

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

    def __enter__(self) -> Self:
        environment = {"KAFKA_HEAP_OPTS": "-Xms128M -Xmx512M", **os.environ, "LOG_DIR": str(self._folder)}
        with (self._folder / "node.log").open("ab") as output:
            self._process = subprocess.Popen(
                [self._home / "bin" / "kafka-server-start.sh", self._properties],
                env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        try:
            wait_until(self._answers, f"Kafka:\n{(self._folder / 'node.log').read_text()[-3000:]}", seconds=60)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the node."""
        assert self._process is not None
        for sent in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                os.killpg(self._process.pid, sent)
                try:
                    self._process.wait(15)
                except subprocess.TimeoutExpired:
                    continue

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "node.log").read_text()[-3000:]
        try:
            self.admin().list_topics(timeout=2.0)
        except KafkaException:
            return False
        return True

    def _format(self) -> None:
        cluster = "A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
        users = [
            argument
            for user, password in PASSWORDS.items()
            for argument in ("--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]")
        ]
        subprocess.run(
            [
                self._home / "bin" / "kafka-storage.sh", "format", "--standalone", "-t", cluster,
                "-c", self._properties, *users,
            ],
            check=True, capture_output=True, env={**os.environ, "LOG_DIR": str(self._folder)},
        )  # fmt: skip
