"""The Kubernetes manifests are valid, agree with each other and with the settings, and give their pods no rights."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml

from layercache.cli.main import app
from layercache.cli.settings import rows
from layercache.schemas import settings
from layercache.schemas.settings import Settings

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "deploy" / "kubernetes"
KUBERNETES = "1.31.0"
SECRETS = "/run/secrets/layercache"

Manifest = dict[str, Any]


def manifests(*names: str) -> Iterator[Manifest]:
    for path in sorted(FOLDER.glob("*.yaml")):
        if path.name in names or (not names and path.name != "kustomization.yaml"):
            yield from yaml.safe_load_all(path.read_text())


def of_kind(kind: str) -> dict[str, Manifest]:
    return {found["metadata"]["name"]: found for found in manifests() if found["kind"] == kind}


def pods() -> dict[str, Manifest]:
    """The pods' specifications, by the component that they are."""
    owners = [*of_kind("StatefulSet").values(), *of_kind("Job").values()]
    return {owner["metadata"]["labels"]["app.kubernetes.io/component"]: owner["spec"]["template"] for owner in owners}


KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
PODS = pods()
SECRET = of_kind("Secret")["layercache"]["stringData"]


def container(component: str) -> Manifest:
    (only,) = PODS[component]["spec"]["containers"]
    return dict(only)


def environment(component: str) -> dict[str, str]:
    """What the container finds, the pod's name being the first replica's."""
    return {
        variable["name"]: variable.get("value", f"layercache-{component}-0")
        for variable in container(component).get("env", ())
    }


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads the settings as the container of a component would, its secrets being those of the example."""
    for name, text in SECRET.items():
        (tmp_path / name).write_text(text)
    config = tmp_path / "layercache.toml"
    config.write_text((FOLDER / "layercache.toml").read_text().replace(SECRETS, str(tmp_path)))

    def load(component: str) -> Settings:
        for name, value in environment(component).items():
            monkeypatch.setenv(name, value)
        return settings.load(config)

    return load


@pytest.mark.parametrize(
    "manifest",
    [pytest.param(found, id=f"{found['kind']} {found['metadata']['name']}") for found in manifests()],
)
def test_every_manifest_is_what_kubernetes_knows(manifest: Manifest) -> None:
    if manifest["apiVersion"].startswith("keda.sh/"):
        assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}  # its schema is KEDA's own; see below
        return
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_a_field_that_kubernetes_does_not_know_would_be_found() -> None:
    wrong = yaml.safe_load((FOLDER / "namespace.yaml").read_text()) | {"spce": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_the_kustomization_has_everything_that_needs_no_decision() -> None:
    apart = {"kustomization.yaml", "keda.yaml", "secret.example.yaml"}
    assert set(KUSTOMIZATION["resources"]) == {path.name for path in FOLDER.glob("*.yaml")} - apart
    assert {name for path in KUSTOMIZATION["configMapGenerator"] for name in path["files"]} == {"layercache.toml"}
    assert KUSTOMIZATION["namespace"] in of_kind("Namespace")
    for found in manifests("keda.yaml", "secret.example.yaml"):
        assert found["metadata"]["namespace"] == KUSTOMIZATION["namespace"]
    assert {image["name"] for image in KUSTOMIZATION["images"]} == {container(name)["image"] for name in PODS}


@pytest.mark.parametrize("component", sorted(PODS))
def test_every_container_reads_its_settings(component: str, load: Any) -> None:
    loaded = load(component)
    assert loaded.kafka.options["sasl.password"] == SECRET["kafka-password"]
    assert loaded.store.options == {"key": SECRET["s3-key"], "secret": SECRET["s3-secret"]}
    if component == "worker":
        assert (loaded.worker.worker_id, loaded.worker.static_membership) == ("layercache-worker-0", True)
    known = {row.variable for row in rows()} | {"LAYERCACHE_CONFIG"}
    assert {name for name in environment(component) if name.startswith("LAYERCACHE_")} <= known


def test_every_secret_that_is_named_is_in_the_example() -> None:
    text = (FOLDER / "layercache.toml").read_text()
    named = {line.split(SECRETS + "/")[1].rstrip('"') for line in text.splitlines() if SECRETS in line}
    assert named == set(SECRET)
    assert len(SECRET["signing-key"]) >= 32
    assert not any(value in text for value in SECRET.values())


@pytest.mark.parametrize("component", sorted(PODS))
def test_arguments_are_the_command_lines(component: str) -> None:
    command: Any = typer.main.get_command(app)
    arguments = list(container(component)["args"])
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    command.make_context(component, arguments, resilient_parsing=True)  # raises for an option that there is not


@pytest.mark.parametrize("component", sorted(PODS))
def test_pods_have_no_rights_and_write_to_volumes_alone(component: str) -> None:
    spec = PODS[component]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert f"--uid {spec['securityContext']['runAsUser']} " in (ROOT / "Dockerfile").read_text()
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)
    security = container(component)["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert "memory" in container(component)["resources"]["limits"]


@pytest.mark.parametrize("component", sorted(PODS))
def test_what_is_mounted_is_there(component: str) -> None:
    spec = PODS[component]["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    claims = of_kind("StatefulSet").get(f"layercache-{component}", {}).get("spec", {}).get("volumeClaimTemplates", [])
    mounted = {mount["mountPath"]: mount["name"] for mount in container(component)["volumeMounts"]}
    assert set(mounted.values()) == set(volumes) | {claim["metadata"]["name"] for claim in claims}
    assert volumes["config"]["configMap"]["name"] == KUSTOMIZATION["configMapGenerator"][0]["name"]
    assert volumes["secrets"]["secret"]["secretName"] == "layercache"
    assert mounted[SECRETS] == "secrets"
    assert mounted[str(Path(environment(component)["LAYERCACHE_CONFIG"]).parent)] == "config"


def test_ports_and_folders_are_the_settings(load: Any) -> None:
    loaded = load("worker")
    for component, port in (("worker", loaded.worker.metrics_port), ("trainer", loaded.trainer.web_port)):
        (opened,) = container(component)["ports"]
        assert opened["containerPort"] == port
        probes = [probe for name, probe in container(component).items() if name.endswith("Probe")]
        assert {probe["httpGet"]["port"] for probe in probes} == {opened["name"]}
        (served,) = of_kind("Service")[f"layercache-{component}"]["spec"]["ports"]
        assert (served["port"], served["targetPort"]) == (port, opened["name"])
        assert PODS[component]["metadata"]["annotations"]["prometheus.io/port"] == str(port)
    assert str(loaded.trainer.state_dir) in [mount["mountPath"] for mount in container("trainer")["volumeMounts"]]


def test_a_stall_is_noticed_before_the_probes_give_up_on_a_start() -> None:
    probes = container("worker")
    assert (probes["livenessProbe"]["httpGet"]["path"], probes["readinessProbe"]["httpGet"]["path"]) == (
        "/healthz",
        "/readyz",
    )
    assert probes["startupProbe"]["periodSeconds"] * probes["startupProbe"]["failureThreshold"] >= 300


def test_selectors_find_their_pods() -> None:
    for component in ("worker", "trainer"):
        labels = PODS[component]["metadata"]["labels"]
        owner, service = (
            of_kind("StatefulSet")[f"layercache-{component}"],
            of_kind("Service")[f"layercache-{component}"],
        )
        assert owner["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
        assert owner["spec"]["serviceName"] == service["metadata"]["name"]
    (budget,) = of_kind("PodDisruptionBudget").values()
    assert budget["spec"]["selector"]["matchLabels"] == PODS["worker"]["metadata"]["labels"]
    for constraint in PODS["worker"]["spec"]["topologySpreadConstraints"]:
        assert constraint["labelSelector"]["matchLabels"] == PODS["worker"]["metadata"]["labels"]
    assert of_kind("StatefulSet")["layercache-trainer"]["spec"]["replicas"] == 1
    assert "replicas" not in of_kind("StatefulSet")["layercache-worker"]["spec"]  # KEDA's, or kubectl scale's


def test_scaling_watches_the_workers_own_group_and_no_worker_is_idle(load: Any) -> None:
    loaded = load("worker")
    scaled = of_kind("ScaledObject")["layercache-worker"]["spec"]
    target = scaled["scaleTargetRef"]
    assert target["name"] in of_kind(target["kind"])
    (trigger,) = scaled["triggers"]
    told = trigger["metadata"]
    assert told["bootstrapServers"] == loaded.kafka.bootstrap_servers
    assert told["consumerGroup"] == loaded.worker.group_id
    assert told["topic"] == loaded.topics.frames
    assert all(isinstance(value, str) for value in told.values())
    assert int(told["lagThreshold"]) > 0
    assert 1 <= scaled["minReplicaCount"] <= scaled["maxReplicaCount"] == loaded.topics.partitions
    asked = of_kind("TriggerAuthentication")[trigger["authenticationRef"]["name"]]["spec"]["secretTargetRef"]
    for reference in asked:
        assert reference["key"] in of_kind("Secret")[reference["name"]]["stringData"]
    keda = of_kind("Secret")["layercache-keda"]["stringData"]
    options = tomllib.loads((FOLDER / "layercache.toml").read_text())["kafka"]["options"]
    assert keda["username"] == options["sasl.username"]
    assert keda["sasl"].replace("_", "-").replace("sha512", "SHA-512").upper() == options["sasl.mechanism"]
