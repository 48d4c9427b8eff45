"""The stack of docker-compose.yml as a project of its own, for tests."""

import json
import subprocess
import sys
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.docker import docker

ROOT = Path(__file__).parent.parent.parent
FRAMES = ROOT / "examples" / "fashion-mnist-frames.zip"
#: What a container is made healthy in, on a machine that does other things as well.
UP_S = 300.0

#: Ends the process of `layercache COMMAND` as the kernel would: by a signal that it cannot catch.
_CRASH = """
import os, pathlib, signal
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    program, *words = os.fsdecode((folder / "cmdline").read_bytes()).split("\\0")
    if "python" in program and words[:2] == ["/opt/layercache/bin/layercache", "COMMAND"]:
        os.kill(int(folder.name), signal.SIGKILL)
        print("ended")
"""


@dataclass(frozen=True)
class Stack:
    """A compose project on ports of its own, whatever ``.env`` says."""

    project: str
    kafka_port: int
    dashboard_port: int
    prometheus_port: int
    workers: int

    @property
    def bootstrap_servers(self) -> str:
        return f"localhost:{self.kafka_port}"

    @property
    def dashboard(self) -> str:
        return f"http://localhost:{self.dashboard_port}"

    def compose(self, *arguments: str, check: bool = True, seconds: float = 120.0) -> str:
        """Standard output of ``docker compose`` in this project."""
        environment = {
            "LAYERCACHE_IMAGE": "layercache-test",
            "KAFKA_PORT": str(self.kafka_port),
            "DASHBOARD_PORT": str(self.dashboard_port),
            "PROMETHEUS_PORT": str(self.prometheus_port),
            # A certificate takes a fifth of the frames that it takes at 1 %.
            "LAYERCACHE_PROMISE__MAX_DISAGREEMENT": "0.05",
            "DEMO_RATE": "100",
            # Not by --scale, which each further `up` would have to repeat.
            "WORKERS": str(self.workers),
        }
        options = ("--ansi", "never", "--env-file", "/dev/null", "--project-name", self.project)
        return docker(
            ("compose", *options, *arguments), check=check, seconds=seconds, environment=environment, folder=ROOT
        ).stdout

    def up(self) -> None:
        """Returns once everything is healthy."""
        self.compose("up", "--detach", "--wait", "--wait-timeout", str(int(UP_S)), seconds=UP_S + 30)

    def containers(self, service: str) -> list[dict[str, Any]]:
        """What ``docker inspect`` says about the service's containers, in their order, stopped ones too."""
        names = self.compose("ps", "--all", "--quiet", service).split()
        found: list[dict[str, Any]] = json.loads(docker(["inspect", *names]).stdout)
        return sorted(found, key=lambda one: int(one["Config"]["Labels"]["com.docker.compose.container-number"]))

    def python(self, service: str, program: str) -> str:
        """What a program prints in the service's first container."""
        return self.compose("exec", "-T", service, "python", "-c", program)

    def publish(self, count: int) -> None:
        """So many of the demo's frames, from the host, by the command line."""
        command = [sys.executable, "-m", "layercache", "publish", str(FRAMES), "--bootstrap", self.bootstrap_servers]
        command += ["--limit", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"

    def crash(self, command: str) -> None:
        """Ends the process of the first container of a service as the kernel would; Docker does not know who did it."""
        assert self.python(command, _CRASH.replace("COMMAND", command)).split() == ["ended"]

    def prometheus(self, path: str, **parameters: str) -> Any:
        """The data of an answer of Prometheus' API."""
        url = f"http://localhost:{self.prometheus_port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            said = json.load(answer)
        assert said["status"] == "success", said
        return said["data"]

    def query(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Labels to values, now."""
        return {
            tuple(sorted(series["metric"].items())): float(series["value"][1])
            for series in self.prometheus("query", query=expression)["result"]
        }

    def number(self, expression: str) -> float:
        """The one value of an expression; NaN where there is none."""
        found = list(self.query(expression).values())
        assert len(found) <= 1, found
        return found[0] if found else float("nan")
