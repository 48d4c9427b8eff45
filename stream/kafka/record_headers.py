"""A Kafka record's headers, also where the binding cannot say them all."""

from collections.abc import Sequence
from operator import methodcaller

from confluent_kafka import Message

from layercache.schemas.frame import RawHeaders

#: What confluent-kafka 2.16 raises for a name that is not UTF-8, and what it would raise if it handed the cause on.
_UNREADABLE = (SystemError, UnicodeDecodeError)

_HEADERS = methodcaller("headers")


def headers_of(message: Message) -> RawHeaders:
    """The record's headers in order, without those whose name is not UTF-8: no reader can ask for them by name.

    confluent-kafka 2.16 raises ``SystemError`` at such a name, once for each message: it has converted all headers,
    keeps them, and a second call returns them. In place of the name that was not read, its tuple holds nothing at all
    (a null pointer), so that taking the item out of the tuple would end the process.
    """
    try:
        return _raw_headers(message)
    except _UNREADABLE:
        return _readable_headers(message)


def all_headers(messages: Sequence[Message]) -> list[RawHeaders]:
    """:func:`headers_of` for many records, for less than as many calls of it cost."""
    try:
        return [headers or () for headers in map(Message.headers, messages)]  # type: ignore[misc]
    except _UNREADABLE:
        # Whichever of them raised does not raise again, so all are looked through.
        return list(map(_readable_headers, messages))


def _readable_headers(message: Message) -> RawHeaders:
    for _ in range(2):  # the first call may be the one that raises
        try:
            headers = _raw_headers(message)
        except _UNREADABLE:
            continue
        # repr() is the way to look at such a tuple without touching its item.
        named = [header for header in headers if not repr(header).startswith("(<NULL>")]
        message.set_headers(named)  # type: ignore[arg-type]  # and the next call for this message finds no such tuple
        return named
    return ()


def _raw_headers(message: Message) -> RawHeaders:
    """The binding's own answer.

    Called from C, which looks whether the call has left an error behind. ``message.headers()`` does not once the
    interpreter has specialised it (CPython 3.11, after some calls): the error would come up wherever the next call is.
    """
    headers: RawHeaders | None = _HEADERS(message)
    return headers or ()
