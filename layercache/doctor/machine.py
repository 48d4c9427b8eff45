"""Checks the machine: threads, ports, disk space for the trainer's state."""

import os
import platform
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from layercache.doctor.checks import Area, Finding
from layercache.schemas.settings import Settings

AREA = Area("machine")
_PORT_S = 2.0
#: Less free space than the first is an error, less than the second a warning.
_MIN_BYTES, _LOW_BYTES = 100e6, 2e9


def check(settings: Settings) -> Iterator[Finding]:
    """Checks threads, the settings' ports, and the trainer's folder."""
    yield _threads(settings)
    if settings.worker.metrics_port:
        yield worker_port(settings.worker.metrics_port)
    if settings.trainer.web_port:
        yield _trainer_port(settings.trainer.web_port)
    yield _state_dir(settings.trainer.state_dir, settings.trainer.replay_mb)


def _threads(settings: Settings) -> Finding:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted, omp = settings.worker.torch_threads, os.environ.get("OMP_NUM_THREADS")
    threads = wanted or torch.get_num_threads()
    where = "worker.torch_threads" if wanted else "OMP_NUM_THREADS" if omp else "torch's own choice"
    found = f"{cores} cores; threads of torch in a worker: {threads} ({where}); Python {platform.python_version()}"
    if threads > cores:
        return AREA.warning(
            "threads", found, f"more threads than cores wait for each other: set worker.torch_threads to {cores}"
        )
    return AREA.ok("threads", found)


def worker_port(port: int) -> Finding:
    """Whether a worker's metrics answer on a port of this machine, or the port is free."""
    name = f"worker.metrics_port {port}"
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=_PORT_S) as answer:
            text = answer.read(200).decode("utf-8", "replace").strip()
        if text in ("working", "starting"):
            return AREA.ok(name, f"a worker answers: {text}")
        return _taken(name)
    except urllib.error.HTTPError as error:
        if error.code == 503:
            return AREA.warning(
                name, f"a worker answers: {error.read(200).decode('utf-8', 'replace').strip()}", "look at its log"
            )
        return _taken(name)
    except (OSError, ValueError):
        return _free(name, port)


def _trainer_port(port: int) -> Finding:
    name = f"trainer.web_port {port}"
    with socket.socket() as probe:
        probe.settimeout(_PORT_S)
        answers = probe.connect_ex(("127.0.0.1", port)) == 0
    return AREA.ok(name, "something answers: the trainer, if it runs here") if answers else _free(name, port)


def _free(name: str, port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the servers set it, too
        try:
            probe.bind(("0.0.0.0", port))
        except OSError as error:
            return AREA.error(
                name, f"cannot be used here: {error.strerror}", "choose another port, or stop the program that has it"
            )
    return AREA.ok(name, "free: no process serves on it on this machine")


def _taken(name: str) -> Finding:
    return AREA.error(
        name, "another program serves on it, which is no worker", "choose another port, or stop the program"
    )


def _state_dir(folder: Path, replay_mb: int) -> Finding:
    name = "trainer.state_dir"
    nearest = nearest_folder(folder)
    if not os.access(nearest, os.W_OK):
        return AREA.warning(
            name, f"{folder} cannot be written to by this user", "where the trainer runs, let it in there"
        )
    return free_space(AREA, name, nearest, f"{folder} holds up to {replay_mb} MB of frames")


def nearest_folder(path: Path) -> Path:
    """The folder itself, or the nearest existing one above it."""
    path = path.expanduser().absolute()
    while not path.is_dir():
        path = path.parent
    return path


def free_space(area: Area, check: str, folder: Path, what: str) -> Finding:
    """How much space is free on the disk of ``folder``."""
    free = shutil.disk_usage(folder).free
    found = f"{what}; {free / 1e9:.1f} GB are free there"
    if free < _MIN_BYTES:
        return area.error(check, found, "free some space")
    return area.warning(check, found, "free some space") if free < _LOW_BYTES else area.ok(check, found)
