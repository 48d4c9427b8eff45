"""The manifest of a version of cache heads: ``<model>/<version>/manifest.json``, next to ``heads.safetensors``."""

from typing import Literal

import msgspec

from layercache.schemas.prediction import FULL


class HeadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is needed to build a head's module; its weights are ``<cut>.<parameter>`` in the tensor file."""

    family: Literal["pooled", "branch", "skim"]
    features: tuple[int, ...]
    """Shape of the value at the cut without the batch: (C, H, W) or (H, W, C), (T, D) for tokens, or (D,)."""
    classes: int
    channels_last: bool = False
    """The value is a map with its channels on the last axis: (H, W, C)."""
    grid: int = 1
    """Pooled: the map is averaged to grid x grid."""
    hidden: int = 0
    """Pooled: width of the hidden layer; 0 for a linear head."""
    width: int = 0
    """Branch: channels of its convolutions."""
    depth: int = 0
    """Branch: the number of strided convolutions."""
    path: tuple[tuple[str, str], ...] = ()
    """Skim: the pieces of the model that it copies, from cut to cut; an empty name is the model's end."""
    stride: int = 1
    """Skim: the map at the cut is averaged over stride x stride."""
    restore: str = ""
    """Skim: the cut at which it enlarges its map to the model's size there, because later layers need that size."""


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """One open exit. Its name is its cut's; the end of a compiled path is named for its precision."""

    cut: str
    head: HeadSpec | None
    """null at the end of a compiled path: the exit is the model itself, in another precision."""
    temperature: float
    threshold: float
    """A frame leaves here when max softmax(logits / temperature) is at least this."""
    flops_share: float
    """FLOPs spent on a frame that leaves here, all heads passed included, as a share of the plain model's."""
    time_share: float
    """The same for measured time."""

    @property
    def family(self) -> str:
        """The head's family, or the precision that the exit is named for."""
        return self.head.family if self.head else self.cut


class ClassResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one class's certification audits."""

    label: int
    """The full model's label."""
    name: str
    frames: int
    disagreements: int
    upper_bound: float
    """Clopper-Pearson at the attempt's error, for this class alone."""


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """What was tested, on what, and with which result (Learn-then-Test, fixed sequence; Angelopoulos et al. 2021)."""

    max_disagreement: float
    confidence: float
    attempt: int
    """The number of this attempt on this model, from 1."""
    error: float
    """This test's level, its share of 1 - confidence: (1 - confidence) / (k (k + 1)) for attempt k plus `recycled`, or,
    if the attempt was for two budgets, this budget's part of that; half of it for a setting bolder than the attempt's
    target."""
    frames: int
    """Certification audits in the test."""
    disagreements: int
    """On how many of them the exits disagree with the full model."""
    p_value: float
    upper_bound: float
    """Upper bound on the risk at this attempt's error: Clopper and Pearson's, but see `blocks`."""
    max_class_disagreement: float | None = None
    """The cap on every class that was also tested (intersection-union test; Berger 1982); null for none."""
    classes_tested: int = 0
    """With a cap: how many classes had a test of their own. All others, too rare for that or never seen on the stream,
    were tested together, as if they were one class."""
    class_upper_bound: float | None = None
    """With a cap: the largest bound of any of these tests at this attempt's error."""
    worst_classes: tuple[ClassResult, ...] = ()
    """Classes of the full model with the most disagreements in the test, the worst first; at most 20."""
    recycled: float = 0.0
    """The part of the attempt's error that earlier attempts passed on, whose planned targets were certified (online
    fallback; Tian and Ramdas 2021)."""
    recycled_from: tuple[int, ...] = ()
    """The numbers of those attempts."""
    repeated: int = 0
    """Audits that came beside `frames`, of pictures that the heads may have learnt, since they had come before. The
    test had to pass without them, and together with them."""
    repeated_disagreements: int = 0
    """On how many of these the exits disagree with the full model."""
    looks: int = 1
    """How often the attempt has looked at its growing sample, over which it spent its error (Lan, DeMets 1983).
    `p_value` and `upper_bound` count what earlier looks might have let pass (Tsiatis, Rosner, Mehta 1984)."""
    span_s: float | None = None
    """The time from the first to the last of `frames`, by their records' timestamps: a promise about a stream that was
    watched for so long. null where that was not recorded."""

    block_frames: int | None = None
    """Of what a key sends within `promise.block_s` at most so many frames count; with 1 every such block counts the
    same, however many frames it has. null where no frame had a key, or that was not recorded: then each of `frames` is
    of another block, and all of these count the same."""
    block_s: float | None = None
    """How long a key's block lasts. Workers and trainers watch for drift by these blocks, whatever their own settings
    say. null where `block_frames` is, or in a certificate of an earlier trainer's: then their settings say it."""
    blocks: int | None = None
    """Where several frames of a block count: from how many blocks `frames` come. `p_value` and `upper_bound` are then
    of a test by bets on whole blocks (Waudby-Smith, Ramdas 2023). null where one frame of each block counts, by an
    exact binomial test."""

    def covers(self, max_disagreement: float, confidence: float, max_class_disagreement: float | None) -> bool:
        """Whether this certificate is at least as strict as these limits.

        >>> tested = Certificate(max_disagreement=0.01, confidence=0.95, attempt=1, error=0.05, frames=500,
        ...     disagreements=0, p_value=0.0066, upper_bound=0.006)
        >>> tested.covers(0.02, 0.9, None), tested.covers(0.005, 0.9, None), tested.covers(0.02, 0.9, 0.1)
        (True, False, False)
        """
        own = self.max_class_disagreement
        return (
            self.max_disagreement <= max_disagreement
            and self.confidence >= confidence
            and (max_class_disagreement is None or (own is not None and own <= max_class_disagreement))
        )


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """Expected shares on the stream that the version was certified on, audits not counted."""

    hit_rate: float
    flops_saved: float
    time_saved: float


class Overload(msgspec.Struct, frozen=True, kw_only=True):
    """Bolder thresholds of the same exits, for a worker that has fallen behind and was allowed a larger budget."""

    thresholds: tuple[float, ...]
    """In the order of ``exits``."""
    certificate: Certificate
    """For the larger budget: the same attempt, on the same audits, with its own part of the attempt's error."""
    expected: Expected


#: What a compiled path computes in, and so what its end is named.
PathPrecision = Literal["int8", "bfloat16"]


class CompiledPath(msgspec.Struct, frozen=True, kw_only=True):
    """The model compiled, in a precision that saves time: its exits answer, and what they are not sure of runs the
    model as its owner gave it, from the picture."""

    runtime: Literal["openvino"] = "openvino"
    precision: PathPrecision
    graphs: tuple[str, ...]
    """A piece for each exit, in order, each named by its SHA-256: from the picture, or from the piece before, to the
    map that the next piece takes and the exit's logits. The files are ``<model>/graphs/<sha256>.safetensors``."""
    made_by: str = ""
    """The runtime's version where the graphs were made, for readers."""
    exits: tuple[Exit, ...] = ()
    overload: Overload | None = None
    """In the file, the version's exits and thresholds for overload stand here, and the manifest's own are empty: a
    worker too old to know compiled paths then keeps every exit closed. :func:`decode` puts them in their place."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A version of cache heads: where to cut, which exits are open, and why that is safe."""

    format: Literal[1] = 1
    version: str
    model: str
    """The fingerprint of the model that the heads belong to."""
    model_name: str
    created: str
    """RFC 3339, UTC."""
    reason: Literal["first", "better", "unsafe", "overload-unsafe", "operator"]
    """Why it was published: ``unsafe`` closes every exit because the live version exceeded its budget;
    ``overload-unsafe`` is its predecessor without ``overload``, because that exceeded its own."""
    predecessor: str | None
    exits: tuple[Exit, ...]
    """In the order of the model; empty where every exit is closed."""
    path: CompiledPath | None = None
    """What leads to the exits, where it is not the model's own layers as they are."""
    full_flops_share: float = 1.0
    """FLOPs of a frame that runs the full path past all open exits, as a share of the plain model's."""
    full_time_share: float = 1.0
    """The same for measured time."""
    audit_rate: float
    certificate: Certificate | None
    expected: Expected | None
    overload: Overload | None = None
    """For a worker that has fallen behind: its thresholds instead; null if none were certified."""
    heads_sha256: str = ""
    """SHA-256 of ``heads.safetensors``, hexadecimal; the store fills it in."""


def flops_shares(manifest: Manifest | None) -> dict[str, float]:
    """FLOPs of a frame by the exit that answers it, as shares of the plain model's: the one table of what frames cost.

    In the order of the model, ``full`` last, for a frame that runs to the end. Without open exits such a frame costs
    what the plain model costs, whatever ``full_flops_share`` says: while an operator keeps the exits of a version
    closed, workers run none of its heads. ``manifest`` is None where there are no heads.

    >>> flops_shares(None), flops_shares(heads.manifest)
    ({'full': 1.0}, {'layer2': 0.48, 'full': 1.0})
    """
    exits = manifest.exits if manifest else ()
    full = manifest.full_flops_share if manifest and exits else 1.0
    return {exit_.cut: exit_.flops_share for exit_ in exits} | {FULL: full}


def time_shares(manifest: Manifest | None) -> dict[str, float]:
    """The same as :func:`flops_shares` for measured time, as it was on the trainer's machine.

    >>> time_shares(None), time_shares(heads.manifest)
    ({'full': 1.0}, {'layer2': 0.5, 'full': 1.0})
    """
    exits = manifest.exits if manifest else ()
    full = manifest.full_time_share if manifest and exits else 1.0
    return {exit_.cut: exit_.time_share for exit_ in exits} | {FULL: full}


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """``<model>/PIN``: an operator holds a version, or keeps every exit closed (``version`` is null)."""

    version: str | None
    reason: str = ""
    created: str = ""


encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Manifest)
pin_decoder = msgspec.json.Decoder(Pin)


class LaterFormat(ValueError):
    """A manifest of a format that this version does not know; the message says which."""


class _Format(msgspec.Struct):
    format: int = 1


def encode(manifest: Manifest) -> bytes:
    """A manifest's JSON, as it is stored."""
    path = manifest.path
    if path is not None:
        path = msgspec.structs.replace(path, exits=manifest.exits, overload=manifest.overload)
        manifest = msgspec.structs.replace(manifest, exits=(), overload=None, path=path)
    return encoder.encode(manifest)


def decode(data: bytes) -> Manifest:
    """Reads a manifest's JSON; unknown fields are ignored.

    Raises :class:`LaterFormat`, or ``msgspec.MsgspecError`` for anything but a manifest.

    >>> decode(b'{"format": 2, "cuts": []}')
    Traceback (most recent call last):
    layercache.schemas.manifest.LaterFormat: of format 2, this version reads format 1
    """
    try:
        manifest = _decoder.decode(data)
    except msgspec.ValidationError:
        found = msgspec.json.decode(data, type=_Format).format
        if found == 1:
            raise
        raise LaterFormat(f"of format {found}, this version reads format 1") from None
    path = manifest.path
    if path is None:
        return manifest
    whole = msgspec.structs.replace(path, exits=(), overload=None)
    return msgspec.structs.replace(manifest, exits=path.exits, overload=path.overload, path=whole)
