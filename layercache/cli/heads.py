"""``layercache heads``: the versions of a model's heads, and which of them workers shall use."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from layercache.cli import common
from layercache.presenting import heads_view

if TYPE_CHECKING:
    from layercache.early_exit.store.head_store import HeadStore

app = typer.Typer(no_args_is_help=True, help="Lists versions of heads; says which of them workers shall use.")

Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Reason = Annotated[str, typer.Option(help="Why, for the next person who looks.")]


@app.command("list")
def list_(
    config: common.Config = None,
    model: common.Model = None,
    weights: common.Weights = None,
    metadata: common.Metadata = None,
    store_url: common.StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Lists the versions of the model's heads, newest first, and marks the one that workers use.

    \b
    Example:
      layercache heads list --model my_model.py:build --store-url s3://bucket/heads
      layercache heads list --json | jq -r '.live.version'
    """
    store = _store(config, model, weights, metadata, store_url)
    if as_json:
        versions = [heads_view.summary(manifest) for manifest in store.versions()]
        typer.echo(json.dumps(heads_view.state(store) | {"versions": versions}, indent=2))
    else:
        heads_view.print_versions(store)


@app.command()
def show(
    version: Annotated[str | None, typer.Argument(help="By default the one that workers use.")] = None,
    config: common.Config = None,
    model: common.Model = None,
    weights: common.Weights = None,
    metadata: common.Metadata = None,
    store_url: common.StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Shows a version: its exits, its certificate and what it should save; checks that its files are whole.

    \b
    Example:
      layercache heads show
      layercache heads show VERSION --json | jq .certificate
    """
    store = _store(config, model, weights, metadata, store_url)
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
def rollback(
    version: Annotated[str | None, typer.Argument(help="By default the latest one's predecessor.")] = None,
    config: common.Config = None,
    model: common.Model = None,
    weights: common.Weights = None,
    metadata: common.Metadata = None,
    store_url: common.StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Sends workers back to an older version, until the trainer publishes the next one. To outlive that, pin.

    \b
    Example:
      layercache heads rollback
      layercache heads rollback VERSION
    """
    store = _store(config, model, weights, metadata, store_url)
    store.rollback(version)
    _report(store, as_json)


@app.command()
def pin(
    version: Annotated[str | None, typer.Argument(help="By default the one that workers use.")] = None,
    config: common.Config = None,
    model: common.Model = None,
    weights: common.Weights = None,
    metadata: common.Metadata = None,
    store_url: common.StoreUrl = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Holds workers at a version, whatever the trainer publishes, until `unpin`.

    \b
    Example:
      layercache heads pin --reason "release freeze"
      layercache heads pin VERSION
    """
    store = _store(config, model, weights, metadata, store_url)
    version = version or store.live().version
    if version is None:
        common.fail(f"{store.url} has no version in use to pin; name one, or close all exits: layercache heads close")
    store.pin(version, reason)
    _report(store, as_json)


@app.command()
def close(
    config: common.Config = None,
    model: common.Model = None,
    weights: common.Weights = None,
    metadata: common.Metadata = None,
    store_url: common.StoreUrl = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Keeps every exit closed, whatever the trainer publishes, until `unpin`: all frames run the full model.

    \b
    Example:
      layercache heads close --reason "odd answers from camera 7"
    """
    store = _store(config, model, weights, metadata, store_url)
    store.close(reason)
    _report(store, as_json)


@app.command()
def unpin(
    config: common.Config = None,
    model: common.Model = None,
    weights: common.Weights = None,
    metadata: common.Metadata = None,
    store_url: common.StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Lets workers follow the latest version again, after `pin` or `close`.

    \b
    Example:
      layercache heads unpin
    """
    store = _store(config, model, weights, metadata, store_url)
    store.unpin()
    _report(store, as_json)


@app.command()
def sign(
    version: Annotated[str, typer.Argument(help="One of `layercache heads list`.")],
    config: common.Config = None,
    model: common.Model = None,
    weights: common.Weights = None,
    metadata: common.Metadata = None,
    store_url: common.StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Signs a version with the first key of store.signing_key: one from before there was a key, or before a new one.

    \b
    Example:
      layercache heads sign VERSION
    """
    store = _store(config, model, weights, metadata, store_url)
    store.sign(version)
    _report(store, as_json)


def _store(config: Any, model: Any, weights: Any, metadata: Any, store_url: Any) -> "HeadStore":
    """The store of the configured model's heads."""
    settings = common.load_settings(
        config,
        model={"spec": model, "weights": weights, "metadata": metadata, "device": "cpu"},
        store={"url": store_url},
    )
    from layercache.early_exit.model import loading
    from layercache.early_exit.store.head_store import open_store

    try:
        classifier = loading.load(settings.model)
    except loading.ModelError as error:
        common.fail(f"error: {error}", common.WRONG_USAGE)
    if settings.model.spec.startswith("torchvision:") and settings.model.weights is None:
        # Its weights would be random: the heads of a model that nobody serves, and an order that nobody obeys.
        common.fail(
            "error: whose heads? Give the --model and --weights that the workers run, or their --config",
            common.WRONG_USAGE,
        )
    return open_store(settings.store, classifier.name, classifier.fingerprint)


def _report(store: "HeadStore", as_json: bool) -> None:
    """What holds after a change."""
    typer.echo(json.dumps(heads_view.state(store), indent=2) if as_json else heads_view.sentence(store))
