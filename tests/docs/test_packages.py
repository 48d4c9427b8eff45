"""What is published: a source distribution and a wheel that are whole, and that install and run elsewhere."""

import json
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from layercache.schemas.publish import documents
from tests.docs.pages import ROOT

pytestmark = pytest.mark.slow

ROOMS = ("cache_training", "early_exit", "layercache", "schemas", "stream")


def run(*command: str | Path, folder: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel, made of what git knows: what lies about is not published."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    tracked = run("git", "ls-files", "-z", folder=ROOT).split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    # The build's packages are those of this environment: nothing is fetched. The wheel is made of the sdist's files.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", built, folder=source)
    return built


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def test_their_metadata_and_readme_are_valid(packages: Path) -> None:
    files = [only(packages, "*.whl"), only(packages, "*.tar.gz")]
    said = run(sys.executable, "-m", "twine", "check", "--strict", *files, folder=packages)
    assert said.count("PASSED") == 2


def test_the_wheel_has_the_rooms_their_types_and_their_data(packages: Path) -> None:
    with zipfile.ZipFile(only(packages, "*.whl")) as wheel:
        names = set(wheel.namelist())
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == set(ROOMS)
    assert names >= {f"{room}/py.typed" for room in ROOMS}
    assert names >= {f"schemas/json/{name}.json" for name in documents()} | {"schemas/asyncapi.yaml"}
    licence = [name for name in names if name.endswith("/licenses/LICENSE")]
    assert len(licence) == 1
    missing = {str(path.relative_to(ROOT)) for room in ROOMS for path in (ROOT / room).rglob("*.py")} - names
    tracked = set(run("git", "ls-files", *ROOMS, folder=ROOT).split())
    assert missing & tracked == set()


def test_what_is_no_code_of_ours_is_packed_too(packages: Path) -> None:
    """Files of the rooms that are not Python (pages' styles, pictures, templates) are needed where it is installed."""
    tracked = run("git", "ls-files", *ROOMS, folder=ROOT).split()
    with zipfile.ZipFile(only(packages, "*.whl")) as wheel:
        assert [name for name in tracked if name not in wheel.namelist()] == []


def test_the_source_distribution_has_licence_and_readme(packages: Path) -> None:
    with tarfile.open(only(packages, "*.tar.gz")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {"LICENSE", "README.md", "pyproject.toml", *(f"{room}/__init__.py" for room in ROOMS)}


def test_the_wheel_installs_and_runs_in_a_fresh_environment(packages: Path, tmp_path: Path) -> None:
    """Its requirements are those of this environment, lent by path; our own code is the wheel's."""
    environment = tmp_path / "fresh"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    purelib = only(environment / "lib", "python*") / "site-packages"
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", only(packages, "*.whl"),
        folder=tmp_path,
    )  # fmt: skip
    lent = Path(sysconfig.get_paths()["purelib"])
    # Behind the wheel's own: a path by .pth is put at the end, and its .pth files, the editable install's, stay unread.
    (purelib / "lent.pth").write_text(f"{lent}\n")

    layercache = environment / "bin" / "layercache"
    assert run(layercache, "--version", folder=tmp_path).startswith("layercache ")
    assert len(json.loads(run(layercache, "settings", "--json", folder=tmp_path))) > 50
    program = "import layercache, layercache.schemas.publish as p; print(layercache.__file__); print(p.FOLDER.is_dir())"
    file, has_schemas = run(python, "-c", program, folder=tmp_path).split()
    assert Path(file).is_relative_to(environment)
    assert has_schemas == "True"
