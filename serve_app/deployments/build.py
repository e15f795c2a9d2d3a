"""From settings to a Serve application; classes are decorated here and nowhere else."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from serve_app.args import AppArgs
from serve_app.deployments.captioner import CaptionerReplica
from serve_app.deployments.ingress import IngressReplica
from serve_app.deployments.tasks import AnswererReplica, MatcherReplica
from serve_app.wiring import presets_of

INGRESS, CAPTIONER, MATCHER, ANSWERER = "Ingress", "Captioner", "Matcher", "Answerer"
"""Deployment names, as config files use them."""

ROUTER = RequestRouterConfig.model_validate(
    {"request_router_class": "serve_app.deployments.router.ImageAffinityRouter"}
)


def build(args: AppArgs) -> Application:
    """Wires ingress → captioner, and matcher and answerer where they are set. The rest comes from the config file.

    Raises `InvalidOption` for presets that don't exist or don't fit the engine.
    """
    presets_of(args)
    captioner = _model_deployment(CaptionerReplica, CAPTIONER, 8)
    matcher = _model_deployment(MatcherReplica, MATCHER, 64).bind(args) if args.matcher else None
    answerer = _model_deployment(AnswererReplica, ANSWERER, 64).bind(args) if args.answerer else None
    ingress: Any = serve.deployment(
        serve.ingress()(IngressReplica),
        name=INGRESS,
        max_ongoing_requests=100,
    )
    application: Application = ingress.bind(args, captioner.bind(args), CAPTIONER, matcher, answerer)
    return application


def _model_deployment(replica: type, name: str, max_ongoing_requests: int) -> Any:
    return serve.deployment(
        replica,
        name=name,
        max_ongoing_requests=max_ongoing_requests,
        # A model that cannot be loaded fails the deployment with its reason instead of trying for ever.
        max_constructor_retry_count=3,
        request_router_config=ROUTER,
    )
