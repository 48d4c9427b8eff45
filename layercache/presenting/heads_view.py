"""Shows versions of heads as JSON, in a sentence, or in tables."""

from typing import TYPE_CHECKING, Any

from layercache.presenting.certificates import tested_on
from layercache.presenting.savings import flops_saved, saving
from layercache.schemas.manifest import flops_shares, time_shares
from layercache.schemas.prediction import FULL

if TYPE_CHECKING:
    from rich.console import Console

    from layercache.early_exit.store.head_store import HeadStore, Live
    from layercache.schemas.manifest import Certificate, Expected, Manifest, Overload, Pin


def state(store: "HeadStore") -> dict[str, Any]:
    """What is in force, by the store, for JSON."""
    live, pin = store.live(), store.pin_state()
    return {
        "store": store.url,
        "latest": store.latest(),
        "live": {"version": live.version, "closed": live.closed, "pinned": live.pinned},
        "reason": pin.reason if pin else "",
        "attempts": store.attempts(),
    }


def sentence(store: "HeadStore") -> str:
    """What is in force, in a sentence."""
    return describe_state(store.live(), store.pin_state(), store.latest())


def describe_state(live: "Live", pin: "Pin | None", latest: str | None) -> str:
    """The same, from values that the caller has read already."""
    why = f" ({pin.reason})" if pin and pin.reason else ""
    if live.closed:
        return f"all exits are kept closed{why}; `layercache heads unpin` opens them again"
    if live.pinned:
        return f"workers are held at {live.version}{why}; latest is {latest}"
    return f"workers use {live.version}" if live.version else "no version yet: every frame runs the full model"


def summary(manifest: "Manifest") -> dict[str, Any]:
    """One version, for a list."""
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


def print_versions(store: "HeadStore") -> None:
    """Prints all versions, and what is in force."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", box=None, header_style="bold")
    table.add_column("version", no_wrap=True)  # users copy it, so it must be complete; it begins with its creation time
    for name in ("why", "exits", "hits", "time saved", "FLOPs saved", "risk at most"):
        table.add_column(name)
    live = store.live().version
    for manifest in store.versions():
        row = summary(manifest)
        table.add_row(
            "*" if manifest.version == live else "",
            manifest.version,
            manifest.reason,
            ", ".join(row["exits"]) or "all closed",
            _percent(row["hit_rate"]),
            _percent(row["time_saved"]),
            "" if row["flops_saved"] is None else flops_saved(row["flops_saved"]),
            _percent(row["upper_bound"], 2),
        )
    console = Console()
    if table.row_count:
        console.print(table)
        console.print()
    console.print(
        f"{store.url}: {sentence(store)}; {store.attempts()} attempts to certify", markup=False, soft_wrap=True
    )


def print_version(manifest: "Manifest") -> None:
    """Prints one version: its exits, and its certificate."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"{manifest.version} of {manifest.model_name} ({manifest.model[:12]})", markup=False)
    console.print(f"{manifest.created}, {manifest.reason}, after {manifest.predecessor or 'none'}", markup=False)
    table = Table("exit", "head", "temperature", "threshold", "time", "FLOPs", box=None, header_style="bold")
    times, flops = time_shares(manifest), flops_shares(manifest)
    for exit_ in manifest.exits:
        figures = (f"{exit_.temperature:.3g}", f"{exit_.threshold:.4f}")
        shares = (_percent(times[exit_.cut]), _percent(flops[exit_.cut]))
        table.add_row(exit_.cut, exit_.family if exit_.head else "the whole model", *figures, *shares)
    table.add_row(FULL, "the model itself", "", "", _percent(times[FULL]), _percent(flops[FULL]))
    console.print(table if manifest.exits else "every exit is closed")
    if manifest.path and manifest.exits:
        made_by = f" (made by {manifest.path.made_by})" if manifest.path.made_by else ""
        console.print(
            f"exits run compiled, in {manifest.path.precision}{made_by}; what none is sure of runs the model itself",
            markup=False,
        )
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
    """Prints the thresholds of a worker that is behind, and their certificate."""
    thresholds = ", ".join(f"{threshold:.4f}" for threshold in overload.thresholds)
    console.print(f"under overload, thresholds {thresholds}", markup=False)
    console.print(_certified(overload.certificate), markup=False)
    _print_classes(console, overload.certificate)
    console.print(_expected(overload.expected), markup=False)


def _certified(certificate: "Certificate") -> str:
    earlier = [str(number) for number in certificate.recycled_from]
    attempts = f"attempt{'s' * (len(earlier) > 1)} {' and '.join(earlier)}"
    recycled = f", with the error that {attempts} passed on" if earlier else ""
    look = f", look {certificate.looks}" if certificate.looks > 1 else ""
    return (
        f"certified for {certificate.max_disagreement:.2%} at {certificate.confidence:.0%}: "
        f"risk at most {certificate.upper_bound:.2%}; {tested_on(certificate)} "
        f"(attempt {certificate.attempt}{look}, p = {certificate.p_value:.2g} "
        f"of {certificate.error:.2g}{recycled})"
    )


def _expected(expected: "Expected") -> str:
    saved = saving(expected.time_saved, expected.flops_saved)
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
