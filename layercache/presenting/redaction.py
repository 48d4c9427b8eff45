"""Removes passwords from everything that a command prints, whatever a library puts into its errors.

Layercache's own messages never contain one; those of librdkafka, object stores and HTTP clients may.
"""

import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    from layercache.schemas.settings import Settings

HIDDEN = "***"

#: Options whose values are secrets, by their names in librdkafka, in fsspec's file systems, and in their clients.
_SECRET = re.compile(r"pass|secret|token|credential|jaas|\bkey\b|key[._]?(pem|id)?$|pem$|oauthbearer\.config", re.I)
_PLACE = re.compile(r"(location|url|file|path|endpoint)$", re.I)
#: A shorter secret would match parts of ordinary words.
_SHORTEST = 4

_hidden: set[str] = set()


def hide(settings: "Settings") -> None:
    """From now on, :func:`redacted` and the log's formatter remove the secrets in ``settings``."""
    _hidden.update(secrets_of(settings))


def redacted(text: str) -> str:
    """``text`` without the secrets that :func:`hide` was given.

    >>> from layercache.schemas.settings import Kafka, Settings
    >>> hide(Settings(kafka=Kafka(options={"sasl.password": "example-of-one"})))
    >>> redacted("refused: me with example-of-one")
    'refused: me with ***'
    """
    for secret in sorted(_hidden, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def secrets_of(settings: "Settings") -> set[str]:
    """Every secret in the settings, in each form that a message may contain."""
    found = set()
    kafka, store, references = settings.kafka, settings.store, settings.references
    for options in (kafka.options, kafka.consumer_options, kafka.producer_options, store.options, references.prefixes):
        found |= set(_in_options(options))
    if store.signing_key is not None:
        found |= set(store.signing_key.get_secret_value().split())
    found |= set(_in_url(store.url))
    return {form for secret in found for form in (secret, quote(secret, safe="")) if len(secret) >= _SHORTEST}


class Formatter(logging.Formatter):
    """Formats log records without secrets, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def install() -> None:
    """Removes secrets from the tracebacks of uncaught errors, too."""
    sys.excepthook = _print_exception
    threading.excepthook = lambda failed: (
        _print_exception(failed.exc_type, failed.exc_value, failed.exc_traceback) if failed.exc_value else None
    )


def _print_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))


def _in_options(options: Mapping[str, object]) -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _in_options(value)
        elif isinstance(value, str) and _SECRET.search(name) and not _PLACE.search(name):
            yield value
            yield from _lines(value)


def _lines(value: str) -> Iterable[str]:
    """Each long line of a key in PEM, since errors quote single lines."""
    return (line for line in value.splitlines() if len(line) > 16 and not line.startswith("-----"))


def _in_url(url: str) -> Iterator[str]:
    try:
        password = urlsplit(url).password
    except ValueError:
        return
    if password:
        yield password
        yield unquote(password)
