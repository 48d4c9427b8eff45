"""A Docker engine for tests: whether there is one, and ``docker`` as a function."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.require import missing

KAFKA_IMAGE = "apache/kafka:4.3.1"
#: As in docker-compose.yml: the image writes its settings into a file that is read-only in some builds of it.
KAFKA_COMMAND = ["bash", "-c", "chmod -f u+w /opt/kafka/config/server.properties; exec /etc/kafka/docker/run"]
PYTHON_IMAGE = "python:3.11-slim-bookworm"
PROMETHEUS_IMAGE = "prom/prometheus:v3.5.0"
STORE_IMAGE = "versity/versitygw:v1.8.0"
_ANSWER_S = 20.0
_PULL_S = 300.0


def require_docker(*images: str) -> None:
    """Skips (or fails, see ``missing``) unless Docker with Compose and Buildx answers and has or can get ``images``."""
    if shutil.which("docker") is None:
        missing("docker", "there is no docker command; install Docker Engine with its Compose and Buildx plugins")
    for command in (["info"], ["compose", "version"], ["buildx", "version"]):
        tried = docker(command, check=False, seconds=_ANSWER_S)
        if tried.returncode != 0:
            said = (tried.stderr.strip() or "no answer").splitlines()[-1]
            missing("docker", f"`docker {' '.join(command)}` says: {said}")
    for image in images:
        if docker(["image", "inspect", image], check=False, seconds=_ANSWER_S).returncode != 0:
            pulled = docker(["pull", "-q", image], check=False, seconds=_PULL_S)
            if pulled.returncode != 0:
                missing("docker", f"the image {image} is not here and cannot be pulled: {pulled.stderr.strip()[-300:]}")


def docker(
    arguments: Sequence[str],
    *,
    check: bool = True,
    seconds: float = 120.0,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs ``docker`` with ``arguments``; raises with what it printed where ``check`` and it failed or took longer."""
    try:
        done = subprocess.run(
            ["docker", *arguments],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=seconds,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        printed = b"".join(part if isinstance(part, bytes) else b"" for part in (late.stdout, late.stderr))
        done = subprocess.CompletedProcess(
            late.cmd, 124, "", f"not done after {seconds:.0f} s\n{printed.decode(errors='replace')}"
        )
    if check and done.returncode != 0:
        raise AssertionError(
            f"docker {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
        )
    return done
