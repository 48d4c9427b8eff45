"""The demo's settings are the file in the report's folder and nothing else."""

import tomllib
from pathlib import Path

import pytest

from layercache.demo import settings
from layercache.demo.run import FolderInUse, prepare
from layercache.schemas.settings import Worker, load

ASSETS = settings.Assets(Path("examples/fashion_mnist.py"), Path("examples/fashion-mnist-frames.zip"))


def test_children_read_from_the_file_what_the_demo_itself_uses(tmp_path: Path) -> None:
    chosen = settings.choose(ASSETS, "127.0.0.1:1234", tmp_path, seed=7)
    file = tmp_path / "demo.toml"
    file.write_text(settings.toml(chosen))
    built = settings.build(chosen)
    assert load(file) == built
    assert built.kafka.bootstrap_servers == "127.0.0.1:1234"
    assert built.promise.max_disagreement == 0.01
    assert built.trainer.seed == 7
    assert built.store.url == f"file://{tmp_path}/heads"


def test_the_users_own_variables_do_not_reach_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERCACHE_WORKER__MAX_BATCH", "5")
    monkeypatch.setenv("LAYERCACHE_CONFIG", "mine.toml")
    assert settings.build(settings.choose(ASSETS, "", tmp_path, 0)).worker.max_batch == Worker().max_batch == 32
    assert not [name for name in settings.environment() if name.startswith("LAYERCACHE_")]


@pytest.mark.parametrize("value", ["plain", 'quote " and \\ back', "é ß 漢 🎉", True, 2_000, 0.5])
def test_any_value_survives_the_file(value: str | float) -> None:
    assert tomllib.loads(settings.toml({"kafka": {"options": {"a.b": value}}})) == {
        "kafka": {"options": {"a.b": value}}
    }


def test_missing_assets_are_named(tmp_path: Path) -> None:
    with pytest.raises(settings.AssetsMissing, match=r"fashion_mnist\.py.*come with a clone"):
        settings.find_assets(tmp_path)


def test_an_earlier_report_goes_heads_and_all(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    prepare(folder)
    (folder / "demo.toml").touch()
    (folder / "summary.json").touch()
    (folder / "heads").mkdir()
    (folder / "heads" / "LATEST").touch()
    prepare(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["demo.toml", "logs"]


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "heads").mkdir()
    with pytest.raises(FolderInUse, match="name another folder with --out"):
        prepare(tmp_path)
    assert (tmp_path / "heads").is_dir()


def test_a_file_in_the_folders_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "report").touch()
    with pytest.raises(FolderInUse, match="no earlier report"):
        prepare(tmp_path / "report")
