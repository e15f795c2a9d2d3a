"""From settings to a Serve application; classes are decorated here and nowhere else."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from serve_app.args import AppArgs
from serve_app.deployments.captioner import CaptionerReplica
from serve_app.deployments.ingress import IngressReplica
from serve_app.deployments.task_models import TaskModelReplica
from serve_app.tasks import ModelRole
from serve_app.wiring import presets_of

INGRESS, CAPTIONER, MATCHER, ANSWERER = "Ingress", "Captioner", "Matcher", "Answerer"
"""Deployment names, as config files use them."""

ROUTER = RequestRouterConfig.model_validate(
    {"request_router_class": "serve_app.deployments.router.ImageAffinityRouter"}
)

END_S = 30
"""Seconds that a replica which ends has beyond the longest request."""


def build(args: AppArgs) -> Application:
    """Wires ingress → captioners, and matcher and answerer if they are set, each with defaults that a config overrides.

    Raises `InvalidOption` for presets that don't exist or don't fit the engine.
    """
    presets_of(args)
    deployments = {name: captioner_deployment(args, name) for name in args.each()}
    captioners = {name: _captioner(each, name, deployments[name]) for name, each in args.each().items()}
    ingress: Any = serve.deployment(
        serve.ingress()(IngressReplica),
        name=INGRESS,
        # Only many requests of the short strategy `basic` meet this before admission.
        max_ongoing_requests=150,
        max_queued_requests=100,
        graceful_shutdown_timeout_s=args.max_timeout_s + END_S,
        ray_actor_options={"num_cpus": 1 if any(map(_on_gpu, args.each().values())) else 0.5},
    )
    application: Application = ingress.bind(
        args,
        captioners,
        deployments,
        _task_model(args, "matcher", MATCHER),
        _task_model(args, "answerer", ANSWERER),
    )
    return application


def captioner_deployment(args: AppArgs, name: str) -> str:
    """The deployment of the captioner of that name."""
    return f"{CAPTIONER}-{name}" if args.captioners else CAPTIONER


def _captioner(args: AppArgs, name: str, deployment: str) -> Any:
    captioner: Any = serve.deployment(CaptionerReplica, name=deployment, **captioner_defaults(args))
    return captioner.bind(args, name)


def captioner_defaults(args: AppArgs) -> dict[str, Any]:
    """Options of a Captioner. A call of detail high holds some 16 rows on average: 16 such calls fill 256 rows. One
    that asks a URL needs next to no CPU."""
    if args.captioner_url is not None:
        return {
            **_defaults(args, num_gpus=0, gpu_cpus=0.25, cpus=0.25),
            "max_ongoing_requests": args.captioner_concurrency,
            "num_replicas": 1,
        }
    return {
        **_defaults(args, num_gpus=1, gpu_cpus=2, cpus=1),
        "max_ongoing_requests": 24,  # half as many as fill the rows may wait in the engine; others go to a neighbour
        # Half of the calls that fill the rows: a node takes minutes to come.
        **_scaling(args, max_replicas=8, target_ongoing_requests=8),
    }


def task_model_defaults(args: AppArgs) -> dict[str, Any]:
    """Options of the Matcher and of the Answerer. BLIP-base takes 0.45 GB for matching and 0.72 GB for questions, in
    bfloat16."""
    return {
        **_defaults(args, num_gpus=0.25, gpu_cpus=1, cpus=0.25),
        "max_ongoing_requests": 64,  # a call is one pass over all its texts; waiting ones run together
        **_scaling(args, max_replicas=4, target_ongoing_requests=16),
    }


def _task_model(args: AppArgs, role: ModelRole, name: str) -> Any:
    if getattr(args, role) is None:
        return None
    model: Any = serve.deployment(TaskModelReplica, name=name, **task_model_defaults(args))
    return model.bind(args, role)


def _defaults(args: AppArgs, *, num_gpus: float, gpu_cpus: float, cpus: float) -> dict[str, Any]:
    gpu = _on_gpu(args)
    return {
        "max_queued_requests": 300,  # of each ingress replica: what it admitted may wait for a replica that starts
        "graceful_shutdown_timeout_s": args.max_timeout_s + END_S,
        "health_check_period_s": 10,
        "health_check_timeout_s": 10 if gpu else 30,  # three in a row: a replica that hangs is replaced
        "ray_actor_options": {"num_gpus": num_gpus, "num_cpus": gpu_cpus} if gpu else {"num_cpus": cpus},
        # A model that cannot be loaded fails the deployment with its reason instead of trying for ever.
        "max_constructor_retry_count": 3,
        "request_router_config": ROUTER,
    }


def _scaling(args: AppArgs, **autoscaling: int) -> dict[str, Any]:
    """On GPUs more replicas as calls come in; a machine without them has no CPUs for more than one."""
    if not _on_gpu(args):
        return {"num_replicas": 1}
    # A GPU is expensive: none is started for a single burst, and a node is slow to come back.
    return {"autoscaling_config": {"min_replicas": 1, "upscale_delay_s": 10, "downscale_delay_s": 300, **autoscaling}}


def _on_gpu(args: AppArgs) -> bool:
    """Whether replicas ask Ray for a GPU; `device: auto` takes one only if a config says `num_gpus`."""
    return args.device.startswith("cuda")
