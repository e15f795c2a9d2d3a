"""The shipped config files: Serve ignores unknown keys silently, so they are refused here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from serve_app.args import AppArgs, PageArgs
from serve_app.errors import InvalidOption
from serve_app.options import parse_options

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def unknown_keys(given: Any, model: type[BaseModel], path: str = "") -> list[str]:
    """Keys of `given` that `model` or a model inside it does not have."""
    found = []
    for key, value in given.items():
        field = model.model_fields.get(key)
        if field is None:
            found.append(f"{path}{key}")
            continue
        inner = [kind for kind in _models(field.annotation) if key not in ("args", "user_config")]
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict) and inner:
                found += unknown_keys(item, inner[0], f"{path}{key}.")
    return found


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models(part)]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_config_has_known_keys_deployments_and_args(file: Path) -> None:
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import ServeDeploySchema

    from serve_app.deployments.build import ANSWERER, INGRESS, MATCHER, captioner_deployment
    from serve_app.deployments.page import PAGE
    from serve_app.wiring import presets_of

    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    ServeDeploySchema.model_validate(config)
    assert unknown_keys(config, ServeDeploySchema) == []
    for application in config["applications"]:
        names = [deployment["name"] for deployment in application["deployments"]]
        if application["import_path"] == "serve_app.app:build_page":
            page = PageArgs.model_validate(application["args"])
            assert names == [PAGE]
            assert page.root_path == application["route_prefix"]
            assert page.application in [other["name"] for other in config["applications"]]
            continue
        ingress, *_ = application["deployments"]
        args = AppArgs.model_validate(application["args"]).reconfigured(ingress.get("user_config", {}))
        tasks = [*([MATCHER] if args.matcher else []), *([ANSWERER] if args.answerer else [])]
        captioners = [captioner_deployment(args, name) for name in args.each()]
        assert names[: 1 + len(captioners)] == [INGRESS, *captioners]
        assert {*names[1 + len(captioners) :]} <= {*tasks}
        presets_of(args)
        assert config["http_options"]["request_timeout_s"] > args.max_timeout_s
        assert [one["name"] for one in application["deployments"] if "user_config" in one] in ([], [INGRESS])
        remote = [captioner_deployment(args, name) for name, each in args.each().items() if each.captioner_url]
        for deployment in application["deployments"]:
            if config["proxy_location"] == "EveryNode":
                assert deployment["graceful_shutdown_timeout_s"] > args.max_timeout_s
            scaling = deployment.get("autoscaling_config") or {}
            assert unknown_keys(scaling, AutoscalingConfig) == []
            if scaling:
                assert scaling["target_ongoing_requests"] * 1.2 <= deployment["max_ongoing_requests"]
            if "num_replicas" in deployment:
                scales = args.device.startswith("cuda") and deployment["name"] not in remote
                assert "autoscaling_config" in deployment or not scales, "it would be ignored"


@pytest.mark.parametrize("role", ["matcher", "answerer"])
def test_a_model_for_a_task_needs_one_line_of_config(role: str) -> None:
    """Who set only `matcher:` got a deployment without a GPU and `device: cuda`."""
    from serve_app.app import build_app

    args = AppArgs(device="cuda", **{role: "a-model"})
    application = build_app(args.model_dump(exclude_unset=True))
    (bound,) = [one for one in application._bound_deployment.init_args if _is(one, role.capitalize())]
    deployment = bound._bound_deployment
    assert deployment.ray_actor_options["num_gpus"] == 0.25
    config = deployment._deployment_config
    assert config.autoscaling_config.max_replicas == 4
    assert config.autoscaling_config.target_ongoing_requests * 1.2 <= config.max_ongoing_requests
    assert config.max_queued_requests > 0
    assert config.graceful_shutdown_timeout_s > args.max_timeout_s
    on_cpu = build_app({"device": "cpu", role: "a-model"})._bound_deployment.init_args
    (bound,) = [one for one in on_cpu if _is(one, role.capitalize())]
    assert "num_gpus" not in bound._bound_deployment.ray_actor_options
    assert bound._bound_deployment.num_replicas == 1


def test_each_captioner_is_a_deployment_with_defaults_of_its_own() -> None:
    from serve_app.app import build_app

    captioners = [
        {"name": "blip", "model": "a-model"},
        {"name": "small", "model": "another", "device": "cpu"},
        {"name": "vlm", "engine": "openai", "model": "qwen", "captioner_url": "http://vlm:8000/v1"},
    ]
    application = build_app({"device": "cuda", "captioners": captioners})
    bound = application._bound_deployment.init_args[1]
    found = {name: one._bound_deployment for name, one in bound.items()}
    assert [each.name for each in found.values()] == ["Captioner-blip", "Captioner-small", "Captioner-vlm"]
    assert [each.ray_actor_options.get("num_gpus", 0) for each in found.values()] == [1, 0, 0]
    assert found["blip"]._deployment_config.autoscaling_config.max_replicas == 8
    assert found["vlm"]._deployment_config.max_ongoing_requests == 16


def _is(bound: Any, name: str) -> bool:
    found = getattr(bound, "_bound_deployment", None)
    return found is not None and found.name == name


def test_admission_lets_in_enough_for_the_service_to_grow() -> None:
    """It once kept a single caption replica below its autoscaling target: full, and never a second one."""
    from serve_app.instant import InstantGenerator
    from serve_app.steps import ONLY
    from serve_app.wiring import pipeline_of

    config = yaml.safe_load((CONFIGS[0].parent / "serve.yaml").read_text(encoding="utf-8"))
    application = config["applications"][0]
    ingress, captioner, matcher = application["deployments"]
    assert matcher["autoscaling_config"]["max_replicas"] == captioner["autoscaling_config"]["max_replicas"]
    args = AppArgs.model_validate(application["args"]).reconfigured(ingress["user_config"])
    asked = parse_options({}, args.limits())
    usual = pipeline_of(args, {ONLY: InstantGenerator()}).work(asked)[ONLY]
    scaling = ingress["autoscaling_config"]
    for ingresses in range(scaling["min_replicas"], scaling["max_replicas"] + 1):
        share = args.max_rows * args.admission_depth / ingresses
        admitted = ingresses * max(1, int(share // usual))
        assert admitted >= 1.2 * captioner["autoscaling_config"]["target_ongoing_requests"]


def test_unknown_key_is_found() -> None:
    from ray.serve.schema import ServeDeploySchema

    config = {"applications": [{"name": "a", "deployments": [{"name": "b", "max_replica": 1}]}], "htp": {}}
    assert unknown_keys(config, ServeDeploySchema) == ["applications.deployments.max_replica", "htp"]


def test_args_refuse_unknown_names_and_take_words() -> None:
    """`serve run module:build_app key=value` gives every value as text."""
    assert AppArgs.model_validate({"max_prompts": "4", "spread": "2"}).max_prompts == 4
    with pytest.raises(ValidationError):
        AppArgs.model_validate({"modell": "demo"})


def test_preset_values_are_checked_when_the_service_is_built() -> None:
    assert AppArgs.model_validate({"presets": {"variant": {"num_beams": 4}}}).presets == {"variant": {"num_beams": 4}}
    with pytest.raises(ValidationError, match="num_beams"):
        AppArgs.model_validate({"presets": {"variant": {"num_beams": "many"}}})


def test_presets_with_more_beams_than_rows_fail_the_start() -> None:
    """Every request was answered 422 for what the operator had set."""
    from serve_app.app import build_app

    with pytest.raises(InvalidOption, match="'round' has 7 beams and max_rows is 4"):
        build_app({"max_rows": 4, "presets": {"variant": {"num_beams": 2}, "extension": {"num_beams": 2}}})
