"""Reads the metrics of workers and trainer as Prometheus would."""

import http.client
import socket
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from layercache.dashboard.board import Board, now_ms
from layercache.dashboard.heads_state import Alarm
from layercache.dashboard.state import Worker

_TIMEOUT_S = 3.0
_MOST_BYTES = 5_000_000
_AT_ONCE = 8
#: The most addresses of one host name: a service has as many addresses as replicas.
_MAX_TARGETS = 100
_PATH = "/metrics"


class WrongUrl(ValueError):
    """Not a URL to read metrics from; the message says what such a URL looks like."""


def metrics_url(text: str) -> str:
    """``text`` as a full URL; ``worker:9100`` is enough. Raises :class:`WrongUrl`.

    >>> metrics_url("worker:9100"), metrics_url("https://host/w/metrics")
    ('http://worker:9100/metrics', 'https://host/w/metrics')
    """
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not parts.username
    except ValueError:  # a port that is no number
        is_url = False
    if not is_url:
        raise WrongUrl(f"{_without_login(text)!r} is no URL of metrics: write host:port, or http://host:port/metrics")
    return urlunsplit(parts._replace(path=parts.path if parts.path not in ("", "/") else _PATH))


@dataclass(frozen=True)
class Target:
    """One process to read: ``url`` holds an address, ``name`` is for the page."""

    url: str
    host: str
    """The name in the URL: some servers answer only requests that name them."""
    name: str


def targets(url: str) -> list[Target]:
    """All processes behind a URL: a host name with several addresses, as a scaled service has, means several processes.

    An ``https`` URL is one process, since its certificate is for the name. Raises ``OSError`` where the name has no
    address.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))[:_MAX_TARGETS]
    # localhost has two addresses (IPv4, IPv6) but is one machine.
    is_one = len(addresses) == 1 or parts.scheme == "https" or host == "localhost"
    if is_one:
        return [Target(url, parts.netloc, f"{host}:{port}")]
    places = [f"{_bracketed(one)}:{port}" for one in addresses]
    return [Target(urlunsplit(parts._replace(netloc=place)), f"{host}:{port}", place) for place in places]


@dataclass(frozen=True)
class Reading:
    """What all targets answered."""

    workers: tuple[Worker, ...] = ()
    class_audits: Mapping[str, int] = field(default_factory=dict)
    """Audits of open exits by class, of all workers since they started; the next field: those that disagreed."""
    class_disagreements: Mapping[str, int] = field(default_factory=dict)

    @property
    def lag_seconds(self) -> float | None:
        """The longest that frames wait for a worker; None without workers."""
        return max((worker.lag_seconds for worker in self.workers), default=None)


class Scraper:
    """Reads the metrics behind some URLs; a target that does not answer is a problem on the board."""

    def __init__(self, urls: Sequence[str], board: Board) -> None:
        self._urls = tuple(urls)
        self._board = board
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="dashboard-metrics")
        self._failing: set[str] = set()

    def look(self) -> Reading:
        """Reads all targets once."""
        failures: dict[str, str] = {}
        found: list[Target] = []
        for url in self._urls:
            try:
                found += targets(url)
            except OSError as error:
                failures[url] = _complaint(_without_login(url), error.strerror or str(error))
        workers, audits, disagreements = [], Counter[str](), Counter[str]()
        for target, answer in zip(found, self._pool.map(_read, found), strict=True):
            if isinstance(answer, str):
                failures[target.name] = _complaint(target.name, answer)
                continue
            if "layercache_exits_closed" in answer:  # workers export this before their first frame
                workers.append(_worker(target.name, answer))
            audits.update(_by_label(answer, "layercache_class_audits", "class"))
            disagreements.update(_by_label(answer, "layercache_class_disagreements", "class"))
        for what in self._failing - failures.keys():
            self._board.clear("metrics", what)
        for what, message in failures.items():
            self._board.put("metrics", what, message)
        self._failing = set(failures)
        return Reading(tuple(workers), audits, disagreements)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class WorkerAlarms:
    """The alarms of the workers' own guards, each with the time at which the dashboard first saw it."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], int] = {}

    def raised(self, workers: Iterable[Worker]) -> tuple[Alarm, ...]:
        """The alarms that are raised now."""
        messages: dict[tuple[str, str], str] = {}
        for worker in workers:
            if worker.exits_closed:
                messages[worker.target, "exits-closed"] = (
                    f"{worker.target} keeps its exits closed: its audits say that they exceed their budget"
                )
            if worker.overload_closed:
                messages[worker.target, "overload-closed"] = (
                    f"{worker.target} opens its exits no wider at any lag: overload's thresholds exceed their budget"
                )
        self._since = {key: self._since.get(key, now_ms()) for key in messages}
        return tuple(
            Alarm(
                kind=kind,  # type: ignore[arg-type]  # one of the literals above
                where=target,
                at_ms=self._since[target, kind],
                active=True,
                message=message,
            )
            for (target, kind), message in messages.items()
        )


def _read(target: Target) -> dict[str, Metric] | str:
    """The target's metrics by name, or what went wrong."""
    request = urllib.request.Request(target.url, headers={"Host": target.host, "User-Agent": "layercache-dashboard"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            text = response.read(_MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        return f"it answers {error.code} {error.reason}"
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        return getattr(reason, "strerror", None) or str(reason) or type(error).__name__
    if len(text) > _MOST_BYTES:
        return f"it answers more than {_MOST_BYTES:,} bytes"
    try:
        return {family.name: family for family in text_string_to_metric_families(text.decode())}
    except ValueError as error:
        return f"its answer is no metrics: {str(error).partition(chr(10))[0]}"


def _worker(name: str, metrics: Mapping[str, Metric]) -> Worker:
    version = next(
        (sample.labels.get("version") for sample in _samples(metrics, "layercache_heads_info") if sample.value), None
    )
    return Worker(
        target=name,
        version=None if version == "none" else version,
        frames=int(_total(metrics, "layercache_frames")),
        exits_closed=_total(metrics, "layercache_exits_closed") > 0,
        overload=_total(metrics, "layercache_overload") > 0,
        overload_closed=_total(metrics, "layercache_overload_closed") > 0,
        lag_seconds=_total(metrics, "layercache_lag_seconds"),
        distillation_share=_total(metrics, "layercache_distillation_share"),
        store_errors=int(_total(metrics, "layercache_store_errors")),
        heads_refused=int(_total(metrics, "layercache_heads_refused")),
    )


def _samples(metrics: Mapping[str, Metric], name: str) -> Iterator[Sample]:
    """The samples of a family, without the creation times of its counters."""
    if name in metrics:
        yield from (sample for sample in metrics[name].samples if not sample.name.endswith("_created"))


def _total(metrics: Mapping[str, Metric], name: str) -> float:
    return sum(sample.value for sample in _samples(metrics, name))


def _by_label(metrics: Mapping[str, Metric], name: str, label: str) -> Counter[str]:
    found = Counter[str]()
    for sample in _samples(metrics, name):
        found[sample.labels.get(label, "")] += int(sample.value)
    return found


def _complaint(where: str, why: str) -> str:
    return f"no metrics from {where}: {why}; is it running with worker.metrics_port set, and is --metrics right?"


def _without_login(url: str) -> str:
    """The URL without user, password and query."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
