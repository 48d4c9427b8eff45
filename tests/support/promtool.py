"""Prometheus' own checker, from this machine or from Prometheus' image."""

import shutil
import subprocess
from pathlib import Path

from tests.support.docker import PROMETHEUS_IMAGE, docker
from tests.support.require import missing


def promtool(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``promtool ARGUMENTS`` in ``folder``, which it can read; skips (or fails) where there is none."""
    path = shutil.which("promtool")
    if path is not None:
        return subprocess.run([path, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    if shutil.which("docker") is None or docker(["image", "inspect", PROMETHEUS_IMAGE], check=False).returncode != 0:
        missing("promtool", f"install Prometheus (Debian: apt-get install prometheus), or pull {PROMETHEUS_IMAGE}")
    mounted = ["--volume", f"{folder}:/checked:ro", "--workdir", "/checked", "--network", "none"]
    return docker(["run", "--rm", *mounted, "--entrypoint", "promtool", PROMETHEUS_IMAGE, *arguments], check=False)
