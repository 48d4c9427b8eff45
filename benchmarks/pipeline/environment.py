"""The peers' environment: made once beside ours, because their packages are pinned against ours."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from benchmarks.pipeline.systems import ROOT

FOLDER = ROOT / ".peers"
_REQUIREMENTS = Path(__file__).parent / "peers" / "requirements.txt"
_PACKAGES = ("bytewax", "faust-streaming", "quixstreams", "confluent-kafka", "aiokafka")


def python() -> str:
    """The environment's Python; makes the environment first where it is missing or out of date."""
    wanted = _REQUIREMENTS.read_text() + sys.version
    stamp, interpreter = FOLDER / "made-from", FOLDER / "bin" / "python"
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"making the peers' environment in {FOLDER}", file=sys.stderr)
        venv.create(FOLDER, clear=True, with_pip=True)
        _run(str(interpreter), "-m", "pip", "install", "--quiet", "-r", str(_REQUIREMENTS))
        # Ours comes last on their path: torch is there without another gigabyte, and their own packages win.
        [site_packages] = FOLDER.glob("lib/python*/site-packages")
        (site_packages / "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
        stamp.write_text(wanted)
    return str(interpreter)


def versions() -> dict[str, str]:
    """Of the packages that are compared."""
    code = "import importlib.metadata as m, sys; print(*(m.version(name) for name in sys.argv[1:]))"
    said = subprocess.run([python(), "-c", code, *_PACKAGES], check=True, capture_output=True, text=True).stdout.split()
    return dict(zip(_PACKAGES, said, strict=True))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)
