"""Ray's errors of a handle call as ours."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from grpc.aio import AioRpcError
from ray.exceptions import RayActorError, RayTaskError, WorkerCrashedError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from serve_app.errors import CaptionServeError, GenerationFailed, GeneratorUnavailable, Overloaded

logger = logging.getLogger("ray.serve")

_LOST = (RayActorError, WorkerCrashedError, DeploymentUnavailableError, ConnectionError, AioRpcError)


@contextmanager
def our_errors(kind: str) -> Iterator[None]:
    """Raises what a call of a replica ("caption", "ingress") raised as one of `serve_app.errors`.

    Time-outs and cancellations pass through.
    """
    try:
        yield
    except (CaptionServeError, TimeoutError):
        raise
    except BackPressureError:
        raise Overloaded(f"The queue of the {kind} replicas is full.") from None
    except _LOST as error:
        raise GeneratorUnavailable(f"No {kind} replica could be reached.") from error
    except Exception as error:
        if isinstance(error, RayTaskError) and isinstance(error.cause, CaptionServeError):
            raise error.cause from None
        logger.exception("a replica failed")
        raise GenerationFailed(f"The {kind} replica failed; the service's log has the details.") from error
