"""Each task beside captions is declared in `serve_app.tasks`; here every interface is held against the declaration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serve_app.client import AsyncCaptionServe, CaptionServe
from serve_app.deployments.ingress import IngressReplica
from serve_app.http import create_app
from serve_app.options import is_list
from serve_app.pipeline import CaptionPipeline
from serve_app.service import CaptionService, TaskService
from serve_app.tasks import TASKS, Task
from tests.unit.fakes import RuleGenerator
from tests.unit.test_api import echo
from tests.unit.test_tasks import RuleAnswerer, RuleMatchModel

API = Path(__file__).parents[2] / "docs" / "api.md"


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_task_is_at_every_interface(task: Task) -> None:
    for interface in (TaskService, IngressReplica, CaptionServe, AsyncCaptionServe):
        found = interface.func_or_class if hasattr(interface, "func_or_class") else interface
        assert callable(getattr(found, task.method, None)), f"{found.__name__} has no {task.method}"
    service = CaptionService(CaptionPipeline(RuleGenerator(echo)))
    operation = create_app(service, TaskService(service)).openapi()["paths"][task.path]["post"]
    assert operation["summary"] == task.summary
    (schema, *_) = operation["requestBody"]["content"].values()
    assert {*task.options.model_fields} <= {*schema["schema"]["properties"]}
    assert f"`POST {task.path}`" in API.read_text(encoding="utf-8")


def test_what_is_deployed_decides_what_is_offered() -> None:
    service = CaptionService(CaptionPipeline(RuleGenerator(echo)))
    assert TaskService(service).names == ()
    assert TaskService(service, RuleMatchModel()).names == ("matches", "filters", "embeddings")
    assert TaskService(service, RuleMatchModel(), RuleAnswerer()).names == tuple(task.name for task in TASKS)


def test_lists_of_a_form_are_known_by_their_options() -> None:
    found = {name for task in TASKS for name, field in task.options.model_fields.items() if is_list(field)}
    assert found == {"texts", "input", "questions"}
    assert all(re.fullmatch(r"[a-z]+", task.name) for task in TASKS)
