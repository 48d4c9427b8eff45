"""``layercache heads``: the versions of a model's heads, and which of them workers shall use."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from layercache.cli import common

if TYPE_CHECKING:
    from rich.console import Console

    from early_exit.store import HeadStore
    from schemas.manifest import Certificate, Expected, Manifest, Overload

app = typer.Typer(no_args_is_help=True, help="Lists versions of heads; says which of them workers shall use.")

Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Reason = Annotated[str, typer.Option(help="Why, for whoever looks next.")]


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
        typer.echo(json.dumps(_state(store) | {"versions": [_summary(m) for m in store.versions()]}, indent=2))
    else:
        _print_versions(store)


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
        _print_version(manifest)


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
    from early_exit import models
    from early_exit.store import open_store

    try:
        classifier = models.load(settings.model)
    except models.ModelError as error:
        common.fail(f"error: {error}", common.WRONG_USAGE)
    if settings.model.spec.startswith("torchvision:") and settings.model.weights is None:
        # Its weights would be random: the heads of a model that nobody serves, and an order that nobody obeys.
        common.fail(
            "error: whose heads? Give the --model and --weights that the workers run, or their --config",
            common.WRONG_USAGE,
        )
    return open_store(settings.store, classifier.name, classifier.fingerprint)


def _state(store: "HeadStore") -> dict[str, Any]:
    live, pin = store.live(), store.pin_state()
    return {
        "store": store.url,
        "latest": store.latest(),
        "live": {"version": live.version, "closed": live.closed, "pinned": live.pinned},
        "reason": pin.reason if pin else "",
        "attempts": store.attempts(),
    }


def _report(store: "HeadStore", as_json: bool) -> None:
    """What holds after a change."""
    typer.echo(json.dumps(_state(store), indent=2) if as_json else _sentence(store))


def _sentence(store: "HeadStore") -> str:
    live, pin = store.live(), store.pin_state()
    why = f" ({pin.reason})" if pin and pin.reason else ""
    if live.closed:
        return f"all exits are kept closed{why}; `layercache heads unpin` opens them again"
    if live.pinned:
        return f"workers are held at {live.version}{why}; latest is {store.latest()}"
    return f"workers use {live.version}" if live.version else "no version yet: every frame runs the full model"


def _summary(manifest: "Manifest") -> dict[str, Any]:
    expected, certificate, overload = manifest.expected, manifest.certificate, manifest.overload
    return {
        "version": manifest.version,
        "created": manifest.created,
        "reason": manifest.reason,
        "exits": [exit_.cut for exit_ in manifest.exits],
        "audit_rate": manifest.audit_rate,
        "hit_rate": expected.hit_rate if expected else None,
        "flops_saved": expected.flops_saved if expected else None,
        "time_saved": expected.time_saved if expected else None,
        "max_disagreement": certificate.max_disagreement if certificate else None,
        "upper_bound": certificate.upper_bound if certificate else None,
        "overload_max_disagreement": overload.certificate.max_disagreement if overload else None,
        "overload_upper_bound": overload.certificate.upper_bound if overload else None,
        "overload_time_saved": overload.expected.time_saved if overload else None,
    }


def _print_versions(store: "HeadStore") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", box=None, header_style="bold")
    table.add_column("version", no_wrap=True)  # to be copied, it must be whole; it begins with the time of its making
    for name in ("why", "exits", "hits", "FLOPs saved", "risk at most"):
        table.add_column(name)
    live = store.live().version
    for manifest in store.versions():
        row = _summary(manifest)
        table.add_row(
            "*" if manifest.version == live else "",
            manifest.version,
            manifest.reason,
            ", ".join(row["exits"]) or "all closed",
            _percent(row["hit_rate"]),
            _percent(row["flops_saved"]),
            _percent(row["upper_bound"], 2),
        )
    console = Console()
    if table.row_count:
        console.print(table)
        console.print()
    console.print(
        f"{store.url}: {_sentence(store)}; {store.attempts()} attempts to certify", markup=False, soft_wrap=True
    )


def _print_version(manifest: "Manifest") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"{manifest.version} of {manifest.model_name} ({manifest.model[:12]})", markup=False)
    console.print(f"{manifest.created}, {manifest.reason}, after {manifest.predecessor or 'none'}", markup=False)
    table = Table("exit", "head", "temperature", "threshold", "FLOPs", "time", box=None, header_style="bold")
    for exit_ in manifest.exits:
        figures = (f"{exit_.temperature:.3g}", f"{exit_.threshold:.4f}")
        shares = (_percent(exit_.flops_share), _percent(exit_.time_share))
        table.add_row(exit_.cut, exit_.head.family, *figures, *shares)
    console.print(table if manifest.exits else "every exit is closed")
    certificate, expected = manifest.certificate, manifest.expected
    if certificate:
        console.print(_certified(certificate), markup=False)
        _print_classes(console, certificate)
    if expected:
        console.print(_expected(expected), markup=False)
    if manifest.overload:
        _print_overload(console, manifest.overload)
    console.print(f"audits: {_percent(manifest.audit_rate)} of frames", markup=False)


def _print_overload(console: "Console", overload: "Overload") -> None:
    """What a worker that is behind may do."""
    thresholds = ", ".join(f"{threshold:.4f}" for threshold in overload.thresholds)
    console.print(f"under overload, thresholds {thresholds}", markup=False)
    console.print(_certified(overload.certificate), markup=False)
    _print_classes(console, overload.certificate)
    console.print(_expected(overload.expected), markup=False)


def _certified(certificate: "Certificate") -> str:
    return (
        f"certified for {certificate.max_disagreement:.2%} at {certificate.confidence:.0%}: "
        f"{certificate.disagreements} of {certificate.frames} audits differ, risk at most "
        f"{certificate.upper_bound:.2%} (attempt {certificate.attempt}, p = {certificate.p_value:.2g})"
    )


def _expected(expected: "Expected") -> str:
    saved = f"{_percent(expected.flops_saved)} of FLOPs and {_percent(expected.time_saved)} of time"
    return f"expected: {_percent(expected.hit_rate)} hits, saving {saved}"


def _print_classes(console: "Console", certificate: "Certificate") -> None:
    from rich.markup import escape
    from rich.table import Table

    if certificate.max_class_disagreement is not None and certificate.class_upper_bound is not None:
        console.print(
            f"certified for {certificate.max_class_disagreement:.2%} within each of {certificate.classes_tested} "
            f"classes, and within all others together: risk at most {certificate.class_upper_bound:.2%}",
            markup=False,
        )
    if certificate.worst_classes:
        table = Table("class that differed", "audits", "differ", "risk at most", box=None, header_style="bold")
        for one in certificate.worst_classes:
            bound = _percent(one.upper_bound)
            table.add_row(escape(f"{one.name} ({one.label})"), str(one.frames), str(one.disagreements), bound)
        console.print(table)


def _percent(share: float | None, digits: int = 1) -> str:
    return "" if share is None else f"{share:.{digits}%}"
