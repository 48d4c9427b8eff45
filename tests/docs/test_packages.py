"""What is published: a source distribution and a wheel that are whole, and that install and run elsewhere."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import typer

from layercache.schemas.publish import documents
from tests.docs.pages import ROOT

pytestmark = pytest.mark.slow

#: Where they stand in the repository; links in ``layercache`` lead to all but the last.
ROOMS = ("cache_training", "early_exit", "schemas", "stream", "layercache")


def installed(name: str) -> str:
    """Where a file of the repository is once it is installed."""
    return name if name.startswith("layercache/") else f"layercache/{name}"


def run(*command: str | Path, folder: Path, **variables: str) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False, timeout=280,
        env=os.environ | variables,
    )  # fmt: skip
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
        elif (ROOT / name).is_symlink():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).symlink_to((ROOT / name).readlink())
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
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"layercache"}
    assert "layercache/py.typed" in names
    ours = {f"layercache/schemas/json/{name}.json" for name in documents()}
    assert names >= ours | {"layercache/schemas/asyncapi.yaml"}
    licence = [name for name in names if name.endswith("/licenses/LICENSE")]
    assert len(licence) == 1


def test_every_file_of_the_rooms_is_packed(packages: Path) -> None:
    """Those that are not Python (pages' styles, pictures, templates) are needed where it is installed, too."""
    tracked = [name for name in run("git", "ls-files", *ROOMS, folder=ROOT).split() if not (ROOT / name).is_symlink()]
    assert len(tracked) > 200
    with zipfile.ZipFile(only(packages, "*.whl")) as wheel:
        assert [name for name in tracked if installed(name) not in wheel.namelist()] == []


def test_the_source_distribution_has_licence_and_readme(packages: Path) -> None:
    with tarfile.open(only(packages, "*.tar.gz")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {"LICENSE", "README.md", "pyproject.toml", *(installed(f"{room}/__init__.py") for room in ROOMS)}


def environment_with(folder: Path, *pip: str | Path) -> Path:
    """A fresh environment with ours installed. Its requirements are those of this environment, lent by path."""
    venv.create(folder, with_pip=False, symlinks=True)
    # Behind ours: a path by .pth is put at the end, and its .pth files, the editable install's, stay unread.
    (purelib(folder) / "lent.pth").write_text(f"{Path(typer.__file__).parents[1]}\n")
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", *pip, folder=ROOT)
    return folder


def purelib(environment: Path) -> Path:
    return only(environment / "lib", "python*") / "site-packages"


@pytest.fixture(scope="module", params=["wheel", "editable"])
def environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a wheel, or an editable install, beside packages of other people that have our rooms' names."""
    what: tuple[str | Path, ...] = ("--no-build-isolation", "--editable", ROOT)
    if request.param == "wheel":
        what = (only(request.getfixturevalue("packages"), "*.whl"),)
    made = environment_with(tmp_path_factory.mktemp(request.param), *what)
    for room in ("stream", "early_exit"):
        (purelib(made) / room).mkdir()
        (purelib(made) / room / "__init__.py").write_text("somebody = 'else'\n")
    return made


def test_it_runs_and_has_its_files_in_a_fresh_environment(environment: Path, tmp_path: Path) -> None:
    layercache = environment / "bin" / "layercache"
    assert run(layercache, "--version", folder=tmp_path).startswith("layercache ")
    assert len(json.loads(run(layercache, "settings", "--json", folder=tmp_path))) > 50
    program = "import layercache, layercache.schemas.publish as p; print(layercache.__file__); print(p.FOLDER.is_dir())"
    file, has_schemas = run(environment / "bin" / "python", "-c", program, folder=tmp_path).split()
    assert Path(file).is_relative_to(environment) or Path(file).is_relative_to(ROOT)
    assert has_schemas == "True"


def test_it_installs_no_other_name(environment: Path, tmp_path: Path) -> None:
    names = ["schemas", "cache_training", "testbed", "tests", "benchmarks", "docs", "examples", "conftest"]
    program = f"import importlib.util as u; print([n for n in {names} if u.find_spec(n)])"
    assert run(environment / "bin" / "python", "-c", program, folder=tmp_path).strip() == "[]"
    program = "import stream, early_exit; print(stream.somebody, early_exit.somebody)"
    assert run(environment / "bin" / "python", "-c", program, folder=tmp_path).strip() == "else else"


def test_a_model_meets_its_own_packages_and_not_ours(environment: Path, tmp_path: Path) -> None:
    """Among them a folder ``schemas`` beside it, which its owner's PYTHONPATH names."""
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "__init__.py").write_text("CLASSES = 3\n")
    (tmp_path / "net.py").write_text(
        "import schemas, stream\nfrom torch import nn\n"
        "assert stream.somebody == 'else'\n"
        "def build():\n"
        "    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, schemas.CLASSES))\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), head)\n"
    )
    (tmp_path / "net.toml").write_text("size = [16, 16]\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n")
    said = run(
        environment / "bin" / "layercache", "cuts", "--model", "net.py:build", folder=tmp_path, PYTHONPATH=str(tmp_path)
    )
    assert "MFLOPs" in said or "FLOPs" in said
