"""The settings: one TOML file (``--config``), overridden by ``LAYERCACHE_*`` in the environment, overridden by options.

``LAYERCACHE_KAFKA__BOOTSTRAP_SERVERS=broker:9092`` sets ``bootstrap_servers`` in ``[kafka]``.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

OpenShare = Annotated[float, Field(gt=0, lt=1)]
Options = dict[str, str | int | float | bool]


#: The largest settings file that is read.
MAX_CONFIG_BYTES = 1_000_000
#: The largest secret that is read: certificates and tokens are smaller.
_MAX_SECRET_BYTES = 100_000


class _Section(BaseModel):
    # Options may hold passwords: a printed error must not show the values that were given.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class _WithOptionFiles(_Section):
    """A section some of whose ``options`` are read from files, each once, when the settings are loaded."""

    @model_validator(mode="before")
    @classmethod
    def _read_option_files(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        files, options = given.get("option_files"), given.get("options") or {}
        if not isinstance(files, dict) or not isinstance(options, dict):
            return given  # the fields' own checks say what is wrong with them
        read = {name: read_secret(Path(path)) for name, path in files.items() if isinstance(path, (str, Path))}
        return given | {"options": {**options, **read}} if read else given


def read_secret(path: Path) -> str:
    """The text in a file, without white space around it. Raises ``ValueError``, which names the file and no content."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_SECRET_BYTES + 1)
        if len(content) > _MAX_SECRET_BYTES:
            raise ValueError(f"{path} holds more than {_MAX_SECRET_BYTES:,} bytes: it is no password, key or token")
        text = content.decode().strip()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} does not hold text") from None
    if not text:
        raise ValueError(f"{path} is empty")
    return text


class Kafka(_WithOptionFiles):
    """Where the broker is and how to talk to it."""

    bootstrap_servers: str = Field("localhost:9092", description="Brokers, as host:port,host:port.")
    options: Options = Field(
        default_factory=dict,
        repr=False,
        description="librdkafka options for every client: security.protocol, sasl.*, ssl.*, …",
    )
    option_files: dict[str, Path] = Field(
        default_factory=dict,
        description='Options whose values are read from files, for secrets: `"sasl.password" = '
        '"/run/secrets/kafka-password"`.',
    )
    consumer_options: Options = Field(
        default_factory=dict, repr=False, description="librdkafka options for consumers alone."
    )
    producer_options: Options = Field(
        default_factory=dict, repr=False, description="librdkafka options for producers alone."
    )


class Topics(_Section):
    """The topics' names, and how to create them."""

    frames: str = Field("frames", description="Frames in.")
    predictions: str = Field("predictions", description="Predictions out.")
    distillation: str = Field("distillation", description="Full-path results, from workers to the trainer.")
    dead_letters: str = Field("frames.dlq", description="Frames that could not be answered.")
    partitions: int = Field(4, ge=1, description="Partitions of frames and predictions, for `topics create`.")
    replication: int = Field(1, ge=1, description="Replication factor, for `topics create`.")
    max_record_bytes: int = Field(
        5_000_000, ge=10_000, description="Largest record of any topic (`max.message.bytes`); larger frames don't fit."
    )
    distillation_retention_ms: int = Field(
        86_400_000, ge=60_000, description="How long frames stay on the distillation topic, for `topics create`."
    )
    distillation_retention_bytes: int = Field(
        20_000_000_000,
        ge=100_000_000,
        description="How much of the broker's disk they may take up, for `topics create`: a trainer that stands still "
        "is sent all audits.",
    )


#: What may run the model, and in what its compiled path may compute; see :class:`Model`.
Runtime = Literal["auto", "torch", "openvino"]
Precision = Literal["auto", "float32", "bfloat16", "int8"]


class Model(_Section):
    """The pretrained model."""

    spec: str = Field(
        "torchvision:resnet18",
        description="`torchvision:NAME`, `timm:NAME`, or `path/to/file.py:FUNCTION`, any function that returns an "
        "nn.Module.",
    )
    weights: str | None = Field(
        None,
        description="A .safetensors or .pt file of the state dict, or for torchvision and timm the name of a weights "
        "entry, DEFAULT for the best. Without it the model is served as it was built.",
    )
    metadata: Path | None = Field(
        None,
        description="TOML with size, mean, std and classes. By default what torchvision's or timm's weights say, or "
        "the TOML file of the same name next to the model's file.",
    )
    device: str = Field("cpu", description="Where to run it: cpu, cuda, cuda:1, mps.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Of weights and maps.")
    runtime: Runtime = Field(
        "auto",
        description="What runs it: `torch` is PyTorch alone, and compiles nothing; `auto` runs the full model by "
        "OpenVINO where that is installed (`pip install 'layercache[fast]'`), quicker, and answers like PyTorch; "
        "`openvino` always does, and ends with the reason where it cannot.",
    )
    precision: Precision = Field(
        "auto",
        description="In what the compiled model of a version may compute, whose answers are certified like any exit's: "
        "`auto` is whichever saves most, `float32` makes none. The full model always computes in `model.dtype`.",
    )


class Promise(_Section):
    """What the owner is promised."""

    max_disagreement: OpenShare = Field(
        0.01, description="How often, of all frames, an exit may differ from the full model's answer."
    )
    max_class_disagreement: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="The same within every class: how often, of the frames that the full model gives it, an exit may "
        "answer otherwise; not limited by default. Nothing opens until each class has as many certification audits as "
        "a certificate of this size needs. Classes too rare for that within `trainer.window_frames`, and those never "
        "seen, are taken together and tested as one.",
    )
    overload_max_disagreement: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="A second budget, larger than `max_disagreement`, up to which a worker may go while it is further "
        "behind than `worker.target_lag_s`; off by default. A limit per class holds then, too.",
    )
    confidence: OpenShare = Field(
        0.95,
        description="Probability that no version ever published exceeds any of these limits.",
    )
    block_s: float = Field(
        10.0,
        gt=0,
        description="Frames of one key within this time are near-copies, and count together. At least as long as a "
        "scene lasts.",
    )
    block_frames: int = Field(
        10,
        ge=1,
        le=100_000,
        description="At most so many of the frames of one key within `block_s` count, a fair choice of them. What is "
        "promised is a share of frames as long as no key sends more. The larger it is beside what keys send, the more "
        "audits a certificate takes and the later an alarm comes. With 1 every key's block counts the same, however "
        "many frames it has. Frames without a key count singly.",
    )
    min_span_s: float = Field(
        0.0,
        ge=0,
        description="Nothing opens on audits of less than this time, by the timestamps of their frames: a day, say, so "
        "that many cameras are not certified by the light of one minute.",
    )

    @model_validator(mode="after")
    def _overload_is_larger(self) -> Self:
        if self.overload_max_disagreement is not None and self.overload_max_disagreement <= self.max_disagreement:
            raise ValueError(
                f"overload_max_disagreement must be larger than max_disagreement, {self.max_disagreement}: "
                "leave it out, or allow more"
            )
        return self


class Store(_WithOptionFiles):
    """Shared storage for versions of heads."""

    url: str = Field("file://./heads", repr=False, description="Any fsspec URL: file://, s3://, gs://, memory://.")
    options: dict[str, Any] = Field(default_factory=dict, repr=False, description="Options of the fsspec file system.")
    option_files: dict[str, Path] = Field(
        default_factory=dict,
        description='Options whose values are read from files, for secrets: `secret = "/run/secrets/s3-secret"`.',
    )
    signing_key: SecretStr | None = Field(
        None,
        description="Heads are signed with this (HMAC-SHA256), and heads without a right signature are never used. "
        "Several keys, one a line: the first signs, all are accepted. At least 32 characters each.",
    )
    signing_key_file: Path | None = Field(None, description="The same from a file.")
    keep_last: int = Field(10, ge=2, description="Versions to keep; older ones are deleted.")
    poll_s: float = Field(1.0, gt=0, description="How often workers look for new heads.")


class Worker(_Section):
    """The worker: frames in, predictions out."""

    group_id: str = Field("layercache", description="Consumer group.")
    worker_id: str | None = Field(
        None, description="A name that stays with this replica (a StatefulSet's ordinal): its transactional.id."
    )
    group_protocol: Literal["classic", "consumer"] = Field(
        "classic", description="How the group shares partitions; `consumer` is KIP-848's way, from Kafka 4.0 on."
    )
    static_membership: bool = Field(
        False,
        description="The worker_id is a static member of the group (KIP-345): a restart within the session time-out "
        "moves no partitions, but those of a worker that is gone for good wait that long.",
    )
    delivery: Literal["exactly_once", "at_least_once"] = Field("exactly_once", description="Delivery guarantee.")
    mode: Literal["serve", "shadow"] = Field(
        "serve", description="shadow: exits are scored, learnt and certified but never served."
    )
    max_batch: int = Field(32, ge=1, description="Frames per micro-batch at most.")
    max_wait_ms: float = Field(20.0, ge=0, description="How long a frame waits for its micro-batch to fill.")
    target_lag_s: float = Field(
        10.0,
        gt=0,
        description="With `promise.overload_max_disagreement`: how many seconds of work may wait before exits open "
        "wider, until the lag is gone.",
    )
    commit_interval_ms: float = Field(200.0, gt=0, description="Longest time between two commits.")
    commit_max_frames: int | None = Field(
        None, ge=1, description="Commit also once so many frames have been answered; by default only time counts."
    )
    transaction_timeout_ms: int = Field(
        10_000,
        ge=1_000,
        le=900_000,
        description="How long the broker leaves a transaction open whose worker is gone: until then it holds back "
        "readers of committed records. Longer than the broker is ever away in passing, and than `commit_interval_ms`.",
    )
    decode_threads: int = Field(2, ge=1, description="Threads that decode pictures.")
    torch_threads: int | None = Field(None, ge=1, description="Threads of torch; by default its own choice.")
    max_frame_bytes: int = Field(5_000_000, ge=1, description="Larger frames go to the dead letters undecoded.")
    max_frame_pixels: int = Field(50_000_000, ge=1, description="Frames of more pixels likewise, before decoding.")
    top_k: int = Field(3, ge=1, description="How many classes a prediction lists.")
    distillation_max_lag_s: float = Field(
        120.0,
        gt=0,
        description="Once what teaches waits longer than this for the trainer, fewer frames are sent to it, audits all "
        "the same. Taken as twice `trainer.checkpoint_s` where that is longer.",
    )
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="Port of the Prometheus metrics, `/healthz` and `/readyz`; 0 for any."
    )
    stalled_after_s: float = Field(
        120.0, gt=0, description="`/healthz` fails once a micro-batch and what goes with it has taken longer."
    )

    @model_validator(mode="after")
    def _check_commits(self) -> "Worker":
        if self.static_membership and not self.worker_id:
            raise ValueError("worker.static_membership needs a worker.worker_id, the name of the static member")
        if self.delivery == "exactly_once" and self.transaction_timeout_ms <= self.commit_interval_ms:
            raise ValueError(
                f"worker.transaction_timeout_ms ({self.transaction_timeout_ms}) must be longer than "
                f"worker.commit_interval_ms ({self.commit_interval_ms:.0f}): the broker would abort every transaction"
            )
        return self


class References(_Section):
    """Pictures that lie elsewhere: what a frame's ``ce_dataref`` may name, and how it is fetched."""

    prefixes: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        repr=False,
        description="Where references may lead, each with the options of its fsspec file system: "
        '`"s3://cameras/frames/" = {}`. Nothing else is fetched, and by default nothing at all.',
    )
    timeout_s: float = Field(5.0, gt=0, le=60, description="How long one attempt to fetch a picture may take.")
    attempts: int = Field(
        3, ge=1, le=10, description="Attempts before a frame whose picture cannot be fetched is a dead letter."
    )
    parallel: int = Field(16, ge=1, le=256, description="Pictures fetched at the same time.")


class Trainer(_Section):
    """The trainer: full-path results in, certified heads out."""

    group_id: str = Field("layercache-trainer", description="Consumer group (the Faust app's id).")
    state_dir: Path = Field(Path("trainer-state"), description="Local folder of its restartable state.")
    checkpoint_s: float = Field(30.0, gt=0, description="Time between two checkpoints.")
    torch_threads: int = Field(1, ge=1, description="Threads of torch.")
    seed: int = Field(0, description="Of initial weights, views and sampling.")
    replay_mb: int = Field(512, ge=1, description="Memory for frames to learn from.")
    ring_mb: int = Field(1024, ge=1, description="Memory for maps and logits of views, from which heads train.")
    window_frames: int = Field(20_000, ge=100, description="Longest tuning window and certification window, each.")
    min_audit_rate: OpenShare = Field(
        0.02,
        description="The audit rate falls to this share of the frames once heads stop improving, and on a fast stream "
        "to this share of the workers' time, while five audits a second remain.",
    )
    max_cuts: int = Field(5, ge=1, le=8, description="Cuts to try heads at.")
    web_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of the Prometheus metrics (`/metrics`) and of Faust's health endpoint (`/`); off by default.",
    )


class Settings(BaseSettings):
    """Everything, by section."""

    model_config = SettingsConfigDict(
        env_prefix="LAYERCACHE_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    kafka: Kafka = Field(default_factory=Kafka)
    topics: Topics = Field(default_factory=Topics)
    model: Model = Field(default_factory=Model)
    promise: Promise = Field(default_factory=Promise)
    store: Store = Field(default_factory=Store)
    worker: Worker = Field(default_factory=Worker)
    references: References = Field(default_factory=References)
    trainer: Trainer = Field(default_factory=Trainer)


def load(config: Path | None = None, overrides: dict[str, dict[str, Any]] | None = None) -> Settings:
    """The settings from ``config``, the environment and ``overrides`` (section to option to value), the last winning.

    Raises ``FileNotFoundError``, ``tomllib.TOMLDecodeError``, ``pydantic.ValidationError``, or ``ValueError`` for a
    file too large to hold settings. No error shows a value.
    """

    class Sourced(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config)

    if config is not None and not config.is_file():
        raise FileNotFoundError(f"no settings file at {config}")
    if config is not None and config.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"{config} has more than {MAX_CONFIG_BYTES:,} bytes: it is no settings file")
    values: dict[str, Any] = dict(overrides or {})
    try:
        merged = Sourced(**values)
    except RecursionError:
        raise ValueError(f"{config} or a variable nests tables or lists too deeply: it holds no settings") from None
    return Settings.model_validate(merged.model_dump())
