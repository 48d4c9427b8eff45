"""The command line: help, settings and their errors, exit codes."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from layercache.cli import common
from layercache.cli.main import app
from layercache.schemas.settings import Settings

ROOT = Path(__file__).parents[3]
TREE = typer.main.get_command(app)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of whoever runs the tests are not part of them."""
    for name in [name for name in os.environ if name.startswith("LAYERCACHE_")]:
        monkeypatch.delenv(name)


def leaves(command: Any = TREE, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with the words that call it."""
    if hasattr(command, "commands"):
        for name, member in command.commands.items():
            yield from leaves(member, (*path, name))
    else:
        yield path, command


def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``layercache`` with ``arguments``, in this process."""
    result = CliRunner().invoke(app, list(arguments), env=environment, prog_name="layercache")
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("path", [path for path, _ in leaves()], ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    code, out, _ = run(*path, "--help")
    assert code == 0
    assert re.search(rf"Example:\s+(\w+=\S+ )*layercache {' '.join(path)}", " ".join(out.split())), out


@pytest.mark.parametrize("path", [path for path, _ in leaves()], ids=" ".join)
def test_every_option_says_what_it_is_for(path: tuple[str, ...]) -> None:
    command = dict(leaves())[path]
    silent = [option.name for option in command.params if not getattr(option, "help", None)]
    assert silent == []


def test_all_commands_of_the_manual_are_there() -> None:
    found = {" ".join(path) for path, _ in leaves()}
    assert found >= {
        "demo", "worker", "trainer", "publish", "watch", "topics create", "cuts", "settings",
        "heads list", "heads show", "heads rollback", "heads pin", "heads close",
    }  # fmt: skip


@pytest.mark.process
def test_the_command_line_starts_without_torch_and_kafka() -> None:
    heavy = "torch torchvision confluent_kafka faust scipy numpy fsspec pydantic matplotlib av"
    program = f"import sys, layercache.cli.main; print(*sorted(set('{heavy}'.split()) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


def test_version_is_the_distributions() -> None:
    assert run("--version") == (0, f"layercache {importlib.metadata.version('layercache')}\n", "")


def test_options_win_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "layercache.toml"
    config.write_text("[worker]\nmax_batch = 1\nmax_wait_ms = 1\ntop_k = 1\n")
    monkeypatch.setenv("LAYERCACHE_WORKER__MAX_BATCH", "2")
    monkeypatch.setenv("LAYERCACHE_WORKER__MAX_WAIT_MS", "2")
    worker = common.load_settings(config, worker={"max_batch": 3, "max_wait_ms": None}).worker
    assert (worker.max_batch, worker.max_wait_ms, worker.top_k, worker.decode_threads) == (3, 2.0, 1, 2)


def test_librdkafka_options_of_all_sources_come_together(tmp_path: Path) -> None:
    config = tmp_path / "layercache.toml"
    config.write_text('[kafka.options]\n"security.protocol" = "SASL_SSL"\n"ssl.ca.location" = "file.pem"\n')
    kafka = common.kafka_overrides("broker:9093", ["ssl.ca.location=option.pem", "sasl.password=a=b"])
    found = common.load_settings(config, kafka=kafka).kafka
    assert found.bootstrap_servers == "broker:9093"
    assert found.options == {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": "option.pem",
        "sasl.password": "a=b",
    }


@pytest.mark.parametrize(
    ("arguments", "environment", "file", "said"),
    [
        (
            ["worker", "--max-batch", "0"], {}, None,
            "worker.max_batch: Input should be greater than or equal to 1 (from the command line)",
        ),
        (
            ["worker"], {"LAYERCACHE_WORKER__MAX_BATCH": "many"}, None,
            "worker.max_batch: Input should be a valid integer, unable to parse string as an integer "
            "(from LAYERCACHE_WORKER__MAX_BATCH)",
        ),
        (
            ["trainer", "--max-disagreement", "1.5"], {}, None,
            "promise.max_disagreement: Input should be less than 1 (from the command line)",
        ),
        (
            ["worker"], {}, "[worker]\nmax_bach = 8\n",
            "worker.max_bach: there is no such setting; `layercache settings` lists all (from {file})",
        ),
        (
            ["trainer"], {}, "[wroker]\nmax_batch = 8\n",
            "wroker: there is no such setting; `layercache settings` lists all (from {file})",
        ),
        (
            ["worker"], {"LAYERCACHE_WROKER__MAX_BATCH": "8"}, None,
            "LAYERCACHE_WROKER__MAX_BATCH: no such section; "
            "there are kafka, topics, model, promise, store, worker, references, trainer",
        ),
        (
            ["worker"], {}, "[worker]\nmode = 'fast'\n",
            "worker.mode: Input should be 'serve' or 'shadow' (from {file})",
        ),
        (["worker"], {}, "max_batch = ", "{file}: not a TOML file: Invalid value (at end of document)"),
        (["worker", "--config", "nowhere.toml"], {}, None, "nowhere.toml: there is no such settings file"),
        (["worker", "--config", "/"], {}, None, "/: there is no such settings file"),
        (
            ["worker", "-X", "ssl.ca.location"], {}, None,
            "-X number 1 has no '=': write NAME=VALUE, as in -X security.protocol=SASL_SSL",
        ),
        (
            ["worker"], {"LAYERCACHE_KAFKA__OPTIONS": "{broken"}, None,
            'environment: error parsing value for field "kafka" from source "EnvSettingsSource"',
        ),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_where_it_came_from(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], file: str | None, said: str
) -> None:
    config = tmp_path / "layercache.toml"
    if file is not None:
        config.write_text(file)
        arguments = [*arguments, "--config", str(config)]
    assert run(*arguments, **environment) == (2, "", said.format(file=config) + "\n")


def test_every_mistake_is_named_at_once() -> None:
    code, _, err = run("worker", "--max-batch", "0", "--torch-threads", "0")
    assert (code, len(err.splitlines())) == (2, 2)


@pytest.mark.parametrize("arguments", [["wroker"], ["worker", "--max-bach", "8"], ["worker", "--mode", "fast"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert arguments[-1].removeprefix("--") in err or arguments[-2] in err


def test_settings_lists_every_setting() -> None:
    code, out, _ = run("settings", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    sections = Settings().model_dump()
    assert code == 0
    assert set(rows) == {f"{section}.{name}" for section, options in sections.items() for name in options}
    assert rows["worker.max_batch"] == {
        "name": "worker.max_batch",
        "variable": "LAYERCACHE_WORKER__MAX_BATCH",
        "kind": "whole number, ≥ 1",
        "default": "32",
        "meaning": "Frames per micro-batch at most.",
    }
    assert all(row["meaning"] for row in rows.values())
    assert rows["worker.mode"]["kind"] == "`serve` or `shadow`"
    assert rows["promise.max_disagreement"]["kind"] == "number, > 0, < 1"


def test_the_containers_settings_file_is_valid() -> None:
    file = ROOT / "deploy" / "layercache.toml"
    assert common.load_settings(file).store.url == tomllib.loads(file.read_text())["store"]["url"]


def failing(error: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """A child process with a command that raises ``error``."""
    program = f"""
import sys
from layercache.cli import main
from layercache.schemas.distillation import DistillationError
def command(): raise {error}
main.app.command("failing")(command)
sys.argv = ["layercache", *{list(flags)!r}, "failing"]
main.main()
"""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.process
def test_an_error_of_ours_is_one_line_and_exit_code_1() -> None:
    done = failing("DistillationError('the record is cut off; publish it again')")
    assert (done.returncode, done.stderr) == (1, "error: the record is cut off; publish it again\n")


@pytest.mark.process
def test_verbose_shows_where_an_error_of_ours_came_from() -> None:
    done = failing("DistillationError('cut off')", "--verbose")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.process
def test_an_unforeseen_error_keeps_its_traceback() -> None:
    done = failing("ZeroDivisionError('never foreseen')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.process
@pytest.mark.parametrize("package", ["schemas.mine", "stream"])
def test_an_error_of_a_users_package_keeps_its_traceback_whatever_its_name(package: str) -> None:
    done = failing(f"type('Mine', (ValueError,), {{'__module__': {package!r}}})('of a model')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.process
def test_ctrl_c_is_exit_code_130() -> None:
    done = failing("KeyboardInterrupt()")
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


@pytest.mark.process
def test_sigterm_while_starting_up_is_exit_code_0() -> None:
    program = "; ".join(
        (
            "import os, signal, layercache.cli.common as common",
            "common.end_on_sigterm()",
            "os.kill(os.getpid(), signal.SIGTERM)",
            "signal.pause()",
        )
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT, timeout=30
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.process
def test_log_lines_off_a_terminal_are_plain_and_timed() -> None:
    program = "from layercache.cli import common; import logging; common.set_up_logging(False); \
log = logging.getLogger('layercache.stream.worker.loop'); log.info('up'); log.debug('unseen')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO layercache\.stream\.worker\.loop: up\n", done.stderr
    )


def test_a_worker_that_did_not_finish_ends_without_waiting_for_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr("layercache.stream.worker.service.run", lambda settings: 3)
    monkeypatch.setattr(common, "end_on_sigterm", lambda: None)
    monkeypatch.setattr(os, "_exit", ended.append)
    CliRunner().invoke(app, ["worker"])
    assert ended == [3]
