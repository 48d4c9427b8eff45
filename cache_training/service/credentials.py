"""What the trainer's client needs to be let in, from the same librdkafka options that let the workers in."""

import asyncio
import base64
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

import faust
from aiokafka.abc import AbstractTokenProvider
from faust.auth import OAuthCredentials

from layercache.schemas.settings import Kafka

_SCRAM_AND_PLAIN = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
#: A token is fetched anew when this share of its life is over, as librdkafka does it.
_REFRESH_AT = 0.8
_HTTP_S = 10.0
_MAX_ANSWER_BYTES = 1_000_000

Options = Mapping[str, str]


def credentials(kafka: Kafka) -> Any:
    """Faust's credentials from the librdkafka options that say the same; None for a plain connection.

    Raises ``ValueError`` for a mechanism or a way to get tokens that the trainer does not have, and ``OSError`` for
    certificates that cannot be read.

    >>> credentials(Kafka(options={"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512",
    ...                            "sasl.username": "trainer", "sasl.password": "secret"}))
    <SASLCredentials: username=trainer>
    """
    options = {str(name): _text(value) for name, value in (kafka.options | kafka.consumer_options).items()}
    protocol = options.get("security.protocol", "PLAINTEXT").upper()
    context = _context(options) if protocol in ("SSL", "SASL_SSL") else None
    if not protocol.startswith("SASL"):
        return faust.SSLCredentials(context) if context is not None else None
    mechanism = options.get("sasl.mechanism", options.get("sasl.mechanisms", "PLAIN")).upper()
    if mechanism == "OAUTHBEARER":
        return OAuthCredentials(oauth_cb=Tokens(_token_source(options)), ssl_context=context)
    if mechanism not in _SCRAM_AND_PLAIN:
        raise ValueError(f"the trainer speaks SASL PLAIN, SCRAM and OAUTHBEARER, not {mechanism}")
    return faust.SASLCredentials(
        username=options.get("sasl.username"),
        password=options.get("sasl.password"),
        mechanism=mechanism,
        ssl_context=context,
    )


class Tokens(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """Tokens for OAUTHBEARER (KIP-255, RFC 7628), each used until most of its life is over.

    ``fetch`` returns a token and when it ends, in seconds since the epoch; it may block.
    """

    def __init__(self, fetch: Callable[[], tuple[str, float]], now: Callable[[], float] = time.time) -> None:
        self._fetch = fetch
        self._now = now
        self._token = ""
        self._refresh_at = 0.0

    async def token(self) -> str:
        """As aiokafka asks for it. Raises ``OSError`` or ``ValueError`` where there is none to be had."""
        if self._now() >= self._refresh_at:
            began = self._now()
            self._token, ends = await asyncio.get_running_loop().run_in_executor(None, self._fetch)
            self._refresh_at = began + _REFRESH_AT * (ends - began)
        return self._token


def _token_source(options: Options) -> Callable[[], tuple[str, float]]:
    if options.get("sasl.oauthbearer.method", "default").lower() == "oidc":
        for needed in ("token.endpoint.url", "client.id", "client.secret"):
            if not options.get(f"sasl.oauthbearer.{needed}"):
                raise ValueError(f"sasl.oauthbearer.method is oidc: set sasl.oauthbearer.{needed}, too")
        return lambda: _fetched(options)
    if options.get("enable.sasl.oauthbearer.unsecure.jwt", "false").lower() == "true":
        return lambda: _unsecured(options)
    raise ValueError("for OAUTHBEARER set sasl.oauthbearer.method to oidc, and its token endpoint, client and secret")


def _fetched(options: Options) -> tuple[str, float]:
    """A token by the client credentials grant (RFC 6749, section 4.4) of OpenID Connect."""
    url = options["sasl.oauthbearer.token.endpoint.url"]
    pair = f"{options['sasl.oauthbearer.client.id']}:{options['sasl.oauthbearer.client.secret']}"
    form = {"grant_type": "client_credentials"}
    if options.get("sasl.oauthbearer.scope"):
        form["scope"] = options["sasl.oauthbearer.scope"]
    headers = {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}", "Accept": "application/json"}
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("sasl.oauthbearer.token.endpoint.url is no http:// or https:// URL")
    context = None
    if url.startswith("https:"):
        context = ssl.create_default_context(cafile=options.get("https.ca.location") or None)
    request = urllib.request.Request(url, urllib.parse.urlencode(form).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=_HTTP_S, context=context) as answer:
            token = str(json.loads(answer.read(_MAX_ANSWER_BYTES))["access_token"])
    except urllib.error.HTTPError as error:
        raise OSError(f"the token endpoint refuses the client: HTTP {error.code}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("the token endpoint's answer holds no access_token") from error
    return token, _end_of(token)


def _end_of(token: str) -> float:
    """When a JWT ends (RFC 7519), by its ``exp``; its signature is for the broker to check."""
    try:
        body = token.split(".")[1]
        return float(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["exp"])
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError("the token endpoint's token is no JWT that says when it ends") from error


def _unsecured(options: Options) -> tuple[str, float]:
    """An unsigned token (RFC 7515, appendix A.5), as librdkafka makes it of ``sasl.oauthbearer.config``; for tests."""
    config = dict(pair.split("=", 1) for pair in options.get("sasl.oauthbearer.config", "").split() if "=" in pair)
    if "principal" not in config:
        raise ValueError("sasl.oauthbearer.config names no principal")
    now = time.time()
    ends = now + float(config.get("lifeSeconds", "3600"))
    claims = {config.get("principalClaimName", "sub"): config["principal"], "iat": now, "exp": ends}
    return ".".join((*(_base64url(part) for part in ({"alg": "none"}, claims)), "")), ends


def _base64url(part: Mapping[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def _context(options: Options) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(
            cafile=options.get("ssl.ca.location") or None, cadata=options.get("ssl.ca.pem") or None
        )
        if "ssl.certificate.location" in options:
            password = options.get("ssl.key.password")
            context.load_cert_chain(options["ssl.certificate.location"], options.get("ssl.key.location"), password)
    except (ssl.SSLError, FileNotFoundError) as error:
        where = ", ".join(f"{name} = {options[name]}" for name in _CERTIFICATE_FILES if name in options)
        raise OSError(f"certificates that cannot be read ({where}): {error.strerror or error}") from error
    for name in ("ssl.certificate.pem", "ssl.key.pem", "ssl.keystore.location"):
        if name in options:
            raise ValueError(f"the trainer does not know {name}: use ssl.certificate.location and ssl.key.location")
    if options.get("enable.ssl.certificate.verification", "true").lower() == "false":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    elif options.get("ssl.endpoint.identification.algorithm", "https").lower() == "none":
        context.check_hostname = False
    return context


_CERTIFICATE_FILES = ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location")


def _text(value: object) -> str:
    """As librdkafka reads it: it knows ``true``, TOML has ``True``."""
    return str(value).lower() if isinstance(value, bool) else str(value)
