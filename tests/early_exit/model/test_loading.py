"""Models are loaded from torchvision and from files, and told apart by what they compute."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torchvision.models
from safetensors.torch import load_file, save_file

from layercache.early_exit.model import loading
from layercache.early_exit.model.loading import ModelError
from layercache.schemas.settings import Model
from tests.support import tiny_model as tiny
from tests.support.tiny_model import CLASSES, TinyModel

ROOT = Path(__file__).parents[3]


def write_model(folder: Path, forward: str, toml: str | None = tiny.METADATA, setup: str = "") -> str:
    """A model whose forward is given; returns its spec."""
    source = f"""
from collections import namedtuple
import torch
from torch import nn

Output = namedtuple("Output", "features logits")

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 3)
        {setup}

    def forward(self, x):
        features = self.conv(x).relu().mean((2, 3))
        {forward}

def build():
    torch.manual_seed(0)
    return Model()

def number():
    return 7

def broken():
    raise RuntimeError("no luck")
"""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.py").write_text(source)
    if toml is not None:
        (folder / "net.toml").write_text(textwrap.dedent(toml))
    return f"{folder / 'net.py'}:build"


def test_loads_a_model_from_a_file(tiny_model: TinyModel) -> None:
    classifier = loading.load(tiny_model.settings)
    red = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    red[:, 0] = 200
    logits = classifier.module(classifier.preprocessing.normalise(red))
    assert classifier.classes == CLASSES
    assert classifier.classes[int(logits.argmax())] == "red"
    assert classifier.name == "tiny"
    assert classifier.preprocessing.size == (16, 16)
    assert not classifier.module.training
    assert not any(parameter.requires_grad for parameter in classifier.module.parameters())


def test_two_files_of_one_name_do_not_shadow_each_other(tmp_path: Path) -> None:
    first = loading.load(Model(spec=write_model(tmp_path / "a", "return self.fc(features)")))
    second = loading.load(Model(spec=write_model(tmp_path / "b", "return -self.fc(features)")))
    frames = first.example(2)
    assert first.module(frames).equal(-second.module(frames))
    assert first.fingerprint != second.fingerprint


def test_loads_torchvision_with_weights_from_a_file_and_its_own_metadata(tmp_path: Path) -> None:
    torch.manual_seed(1)
    original = torchvision.models.squeezenet1_1(weights=None).eval()
    save_file(original.state_dict(), tmp_path / "w.safetensors")
    classifier = loading.load(Model(spec="torchvision:squeezenet1_1", weights=str(tmp_path / "w.safetensors")))
    frames = classifier.example(1)
    with torch.no_grad():
        assert classifier.module(frames).equal(original(frames))
    assert classifier.classes[:2] == ("tench", "goldfish")
    assert classifier.preprocessing.size == (224, 224)
    assert classifier.preprocessing.resize == 256


def test_metadata_overrides_what_torchvision_says(tmp_path: Path) -> None:
    toml = tmp_path / "m.toml"
    toml.write_text('size = 64\nclasses = ["a", "b", "c"]\nname = "mine"\n')
    classifier = loading.load(Model(spec="torchvision:squeezenet1_1", metadata=toml))
    assert classifier.preprocessing.size == (64, 64)
    assert classifier.preprocessing.resize is None
    assert classifier.preprocessing.mean == (0.485, 0.456, 0.406)
    assert classifier.classes == ("a", "b", "c")
    assert classifier.name == "mine"


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_are_neither_needed_nor_counted(name: str, tmp_path: Path) -> None:
    toml = tmp_path / "m.toml"
    toml.write_text('size = 96\nclasses = ["a", "b"]\n')
    torch.manual_seed(0)
    full = torchvision.models.get_model(name, weights=None, init_weights=False, num_classes=2).state_dict()
    without = {key: value for key, value in full.items() if not key.lower().startswith("aux")}
    save_file(full, tmp_path / "full.safetensors")
    save_file(without, tmp_path / "without.safetensors")
    loaded = [
        loading.load(Model(spec=f"torchvision:{name}", metadata=toml, weights=str(tmp_path / file)))
        for file in ("full.safetensors", "without.safetensors")
    ]
    assert len(without) < len(full)
    assert loaded[0].fingerprint == loaded[1].fingerprint


def test_counters_of_batch_norms_may_be_missing_but_no_statistics(tmp_path: Path) -> None:
    setup = "self.norm = nn.BatchNorm1d(4)"
    forward = "return self.fc(self.norm(features))"
    settings = Model(spec=write_model(tmp_path, forward, setup=setup), weights=str(tmp_path / "w.safetensors"))
    whole = loading.load(settings.model_copy(update={"weights": None}))
    state = whole.module.state_dict()
    state["norm.running_mean"] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    del state["norm.num_batches_tracked"]
    save_file(state, tmp_path / "w.safetensors")
    assert loading.load(settings).module.get_buffer("norm.running_mean").tolist() == [1.0, 2.0, 3.0, 4.0]
    del state["norm.running_mean"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"missing: norm\.running_mean\."):
        loading.load(settings)


def test_reads_pt_files_with_the_wrappings_of_training_scripts(tiny_model: TinyModel, tmp_path: Path) -> None:
    state = load_file(tiny_model.folder / "tiny.safetensors")
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}
    torch.save(wrapped, tmp_path / "checkpoint.pt")
    settings = tiny_model.settings.model_copy(update={"weights": str(tmp_path / "checkpoint.pt")})
    assert loading.load(settings).fingerprint == loading.load(tiny_model.settings).fingerprint


def test_float16_files_are_cast_to_the_parameters_dtype(tiny_model: TinyModel, tmp_path: Path) -> None:
    halves = {name: value.half() for name, value in load_file(tiny_model.folder / "tiny.safetensors").items()}
    save_file(halves, tmp_path / "half.safetensors")
    classifier = loading.load(tiny_model.settings.model_copy(update={"weights": str(tmp_path / "half.safetensors")}))
    assert {parameter.dtype for parameter in classifier.module.parameters()} == {torch.float32}
    assert classifier.module.get_parameter("first.0.weight").equal(halves["first.0.weight"].float())


def test_weights_may_be_named_by_the_metadata(tiny_model: TinyModel) -> None:
    toml = tiny_model.folder / "tiny.toml"
    toml.write_text(tiny.METADATA + 'weights = "tiny.safetensors"\n')
    named = loading.load(Model(spec=tiny_model.settings.spec))
    assert named.fingerprint == loading.load(tiny_model.settings).fingerprint


@pytest.mark.parametrize(
    "forward",
    [
        "return {'features': features, 'logits': self.fc(features)}",
        "return Output(features, self.fc(features))",
        "return self.fc(features), features",
    ],
)
def test_takes_the_logits_out_of_what_a_model_returns(forward: str, tmp_path: Path) -> None:
    plain = loading.load(Model(spec=write_model(tmp_path / "plain", "return self.fc(features)")))
    wrapped = loading.load(Model(spec=write_model(tmp_path / "wrapped", forward)))
    frames = plain.example(2)
    assert wrapped.module(frames).equal(plain.module(frames))


def test_class_names_default_to_numbers(tmp_path: Path) -> None:
    spec = write_model(
        tmp_path, "return self.fc(features)", "size = 16\nmean = 0.5\nstd = 0.5\n".replace("0.5", "[0.5,0.5,0.5]")
    )
    assert loading.load(Model(spec=spec)).classes == ("class 0", "class 1", "class 2")


class TestFingerprint:
    @pytest.mark.process
    def test_is_the_same_in_every_process_at_every_path_and_dtype(self, tiny_model: TinyModel, tmp_path: Path) -> None:
        here = loading.load(tiny_model.settings).fingerprint
        moved = tiny.write(tmp_path / "elsewhere")
        script = (
            "import sys; from layercache.early_exit.model import loading; "
            "from layercache.schemas.settings import Model; "
            "print(loading.load(Model(spec=sys.argv[1], weights=sys.argv[2], dtype='bfloat16')).fingerprint)"
        )
        there = subprocess.run(
            [sys.executable, "-c", script, moved.settings.spec, str(moved.settings.weights)],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": "1"},
        )
        assert there.stdout.strip() == here

    def test_changes_with_weights_preprocessing_and_architecture_alone(self, tmp_path: Path) -> None:
        def of(forward: str = "return self.fc(features)", toml: str = tiny.METADATA, setup: str = "") -> str:
            folder = tmp_path / str(len(list(tmp_path.iterdir())))
            return loading.load(Model(spec=write_model(folder, forward, toml, setup))).fingerprint

        plain = of()
        assert of() == plain
        assert of(toml=tiny.METADATA.replace("red", "crimson")) == plain
        assert of(setup="self.unused = nn.Linear(2, 2)") == plain
        others = [
            of(forward="return 2 * self.fc(features)"),
            of(forward="return self.fc(features.tanh())"),
            of(forward="return self.fc(features) + torch.tensor([1.0, 2.0, 3.0])"),
            of(forward="return self.fc(features) + torch.tensor([1.0, 2.0, 4.0])"),
            of(toml=tiny.METADATA.replace("16, 16", "16, 17")),
            of(toml=tiny.METADATA.replace("1.0, 1.0, 1.0", "1.0, 1.0, 0.9")),
            of(setup="self.conv.weight.data[0, 0, 0, 0] += 1e-3"),
            of(setup="self.conv.padding = (1, 1)"),
            of(
                setup="self.register_buffer('b', torch.ones(3), persistent=False)",
                forward="return self.fc(features) + self.b",
            ),
            of(
                setup="self.register_buffer('b', torch.zeros(3), persistent=False)",
                forward="return self.fc(features) + self.b",
            ),
        ]
        assert len({plain, *others}) == 1 + len(others)

    def test_does_not_depend_on_serving_dtype(self, tiny_model: TinyModel) -> None:
        half = loading.load(tiny_model.settings.model_copy(update={"dtype": "bfloat16"}))
        assert half.fingerprint == loading.load(tiny_model.settings).fingerprint
        assert half.module.get_parameter("fc.weight").dtype is torch.bfloat16


class TestRefuses:
    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("torchvision:resnet19", "no classifier 'resnet19'; did you mean resnet1"),
            ("torchvision:maskrcnn_resnet50_fpn", "no classifier"),
            ("nothing", "no model: write torchvision:NAME"),
            ("no/such/file.py:build", "no Python file at no/such/file.py"),
        ],
    )
    def test_an_unknown_model(self, spec: str, message: str) -> None:
        with pytest.raises(ModelError, match=message):
            loading.load(Model(spec=spec))

    @pytest.mark.parametrize(
        ("function", "message"),
        [("other", "no function 'other'"), ("number", "returned a int, not an nn.Module"), ("broken", "no luck")],
    )
    def test_a_file_without_a_model(self, function: str, message: str, tmp_path: Path) -> None:
        spec = write_model(tmp_path, "return self.fc(features)").replace(":build", f":{function}")
        with pytest.raises(ModelError, match=message):
            loading.load(Model(spec=spec))

    def test_a_file_that_cannot_be_imported(self, tmp_path: Path) -> None:
        (tmp_path / "bad.py").write_text("import no_such_package\n")
        with pytest.raises(ModelError, match=r"cannot import .*bad\.py: ModuleNotFoundError"):
            loading.load(Model(spec=f"{tmp_path}/bad.py:build"))

    @pytest.mark.parametrize(
        ("forward", "message"),
        [
            ("return features.sum()", "a classifier returns logits"),
            ("return [1, 2]", "without a tensor"),
            ("return self.fc(features[:, :2])", "fails on a batch of shape"),
        ],
    )
    def test_a_module_that_is_no_classifier(self, forward: str, message: str, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=message):
            loading.load(Model(spec=write_model(tmp_path, forward)))

    def test_a_model_without_preprocessing_and_shows_what_to_write(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"(?s)write a TOML file .*net\.toml.*mean = "):
            loading.load(Model(spec=write_model(tmp_path, "return self.fc(features)", toml=None)))

    @pytest.mark.parametrize(
        ("toml", "message"),
        [
            ("size = [16, 16]\n", "lacks mean, std"),
            ("size = 16\nmean = 0\nstd = 0\n", "std above 0"),
            ("size = 'big'\n", "size"),
            ("sice = 16\n", "sice"),
            ("size = [16\n", "cannot read"),
            (tiny.METADATA.replace('"red", ', ""), "3 logits but 2 class names"),
        ],
    )
    def test_wrong_metadata(self, toml: str, message: str, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=message):
            loading.load(Model(spec=write_model(tmp_path, "return self.fc(features)", toml)))

    def test_a_missing_metadata_file(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="no metadata file"):
            loading.load(Model(spec="torchvision:resnet18", metadata=tmp_path / "none.toml"))

    def test_weights_that_are_nowhere(self, tiny_model: TinyModel) -> None:
        with pytest.raises(ModelError, match=r"'none\.pt' of .* are no file"):
            loading.load(tiny_model.settings.model_copy(update={"weights": "none.pt"}))
        with pytest.raises(ModelError, match="nor one of IMAGENET1K_V1, DEFAULT"):
            loading.load(Model(spec="torchvision:resnet18", weights="IMAGENET1K_V9"))

    def test_weights_of_another_model(self, tiny_model: TinyModel, tmp_path: Path) -> None:
        state = load_file(tiny_model.folder / "tiny.safetensors")
        del state["fc.bias"]
        state["extra"] = torch.zeros(1)
        state["fc.weight"] = torch.zeros(5, 8)
        save_file(state, tmp_path / "other.safetensors")
        with pytest.raises(ModelError) as raised:
            loading.load(tiny_model.settings.model_copy(update={"weights": str(tmp_path / "other.safetensors")}))
        for part in ("missing: fc.bias", "unexpected: extra", "fc.weight (5, 8) instead of (3, 8)"):
            assert part in str(raised.value)

    @pytest.mark.parametrize("suffix", ["pt", "safetensors"])
    def test_a_torn_weights_file(self, suffix: str, tiny_model: TinyModel, tmp_path: Path) -> None:
        torn = tmp_path / f"torn.{suffix}"
        torn.write_bytes((tiny_model.folder / "tiny.safetensors").read_bytes()[:100])
        with pytest.raises(ModelError, match="cannot read the weights"):
            loading.load(tiny_model.settings.model_copy(update={"weights": str(torn)}))

    def test_a_pickle_that_would_run_code(self, tiny_model: TinyModel, tmp_path: Path) -> None:
        torch.save({"state_dict": Path}, tmp_path / "evil.pt")
        with pytest.raises(ModelError, match="cannot read the weights"):
            loading.load(tiny_model.settings.model_copy(update={"weights": str(tmp_path / "evil.pt")}))

    def test_a_device_that_is_not_there(self, tiny_model: TinyModel) -> None:
        for device in ("cuda:99", "toaster"):
            with pytest.raises(ModelError, match=f"device '{device}' is not available"):
                loading.load(tiny_model.settings.model_copy(update={"device": device}))
