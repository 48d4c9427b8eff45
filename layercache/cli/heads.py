"""``layercache heads``: the versions of a model's heads, and which of them workers use."""

import json
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from layercache.cli import common
from layercache.cli.options import STORE, WEIGHTED_MODEL, with_settings
from layercache.presenting import heads_view

if TYPE_CHECKING:
    from layercache.early_exit.store.head_store import HeadStore
    from layercache.schemas.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Lists versions of heads; says which of them workers shall use.")

_with_store_settings = with_settings(*WEIGHTED_MODEL, STORE)

Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Reason = Annotated[str, typer.Option(help="Why, for the next person who looks.")]


@app.command("list")
@_with_store_settings
def list_(
    settings: "Settings",
    as_json: Json = False,
) -> None:
    """Lists the versions of the model's heads, newest first, and marks the one that workers use.

    \b
    Example:
      layercache heads list --model my_model.py:build --store-url s3://bucket/heads
      layercache heads list --json | jq -r '.live.version'
    """
    store = _store(settings)
    if as_json:
        versions = [heads_view.summary(manifest) for manifest in store.versions()]
        typer.echo(json.dumps(heads_view.state(store) | {"versions": versions}, indent=2))
    else:
        heads_view.print_versions(store)


@app.command()
@_with_store_settings
def show(
    settings: "Settings",
    version: Annotated[str | None, typer.Argument(help="By default the one that workers use.")] = None,
    as_json: Json = False,
) -> None:
    """Shows a version: its exits, its certificate and what it should save; checks that its files are whole.

    \b
    Example:
      layercache heads show
      layercache heads show VERSION --json | jq .certificate
    """
    store = _store(settings)
    live = store.live()
    version = version or live.version
    if version is None:
        common.fail(f"{store.url} has no version in use" + (": all exits are kept closed" if live.closed else " yet"))
    manifest, _ = store.load(version)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(manifest), indent=2).decode())
    else:
        heads_view.print_version(manifest)


@app.command()
@_with_store_settings
def rollback(
    settings: "Settings",
    version: Annotated[str | None, typer.Argument(help="By default the latest one's predecessor.")] = None,
    as_json: Json = False,
) -> None:
    """Sends workers back to an older version, until the trainer publishes the next one. To outlive that, pin.

    \b
    Example:
      layercache heads rollback
      layercache heads rollback VERSION
    """
    store = _store(settings)
    store.rollback(version)
    _report(store, as_json)


@app.command()
@_with_store_settings
def pin(
    settings: "Settings",
    version: Annotated[str | None, typer.Argument(help="By default the one that workers use.")] = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Holds workers at a version, whatever the trainer publishes, until `unpin`.

    \b
    Example:
      layercache heads pin --reason "release freeze"
      layercache heads pin VERSION
    """
    store = _store(settings)
    version = version or store.live().version
    if version is None:
        common.fail(f"{store.url} has no version in use to pin; name one, or close all exits: layercache heads close")
    store.pin(version, reason)
    _report(store, as_json)


@app.command()
@_with_store_settings
def close(
    settings: "Settings",
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Keeps every exit closed, whatever the trainer publishes, until `unpin`: all frames run the full model.

    \b
    Example:
      layercache heads close --reason "odd answers from camera 7"
    """
    store = _store(settings)
    store.close(reason)
    _report(store, as_json)


@app.command()
@_with_store_settings
def unpin(
    settings: "Settings",
    as_json: Json = False,
) -> None:
    """Lets workers follow the latest version again, after `pin` or `close`.

    \b
    Example:
      layercache heads unpin
    """
    store = _store(settings)
    store.unpin()
    _report(store, as_json)


@app.command()
@_with_store_settings
def sign(
    version: Annotated[str, typer.Argument(help="One of `layercache heads list`.")],
    settings: "Settings",
    as_json: Json = False,
) -> None:
    """Signs a version with the first key of store.signing_key: one from before there was a key, or before a new one.

    \b
    Example:
      layercache heads sign VERSION
    """
    store = _store(settings)
    store.sign(version)
    _report(store, as_json)


def _store(settings: "Settings") -> "HeadStore":
    """The store of the configured model's heads."""
    from layercache.early_exit.model import loading
    from layercache.early_exit.store.head_store import open_store

    try:
        classifier = loading.load(settings.model.model_copy(update={"device": "cpu"}))
    except loading.ModelError as error:
        common.fail(f"error: {error}", common.WRONG_USAGE)
    if settings.model.spec.startswith("torchvision:") and settings.model.weights is None:
        # Its weights would be random: no worker runs that model, so no worker would follow the command.
        common.fail(
            "error: whose heads? Give the --model and --weights that the workers run, or their --config",
            common.WRONG_USAGE,
        )
    return open_store(settings.store, classifier.name, classifier.fingerprint)


def _report(store: "HeadStore", as_json: bool) -> None:
    """Says what is in force after a change."""
    typer.echo(json.dumps(heads_view.state(store), indent=2) if as_json else heads_view.sentence(store))
