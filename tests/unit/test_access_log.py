"""The line that each request leaves in the log, and where it goes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from serve_app.deployments.logs import log_with_serve
from serve_app.limits import Limits
from serve_app.service import KeyStore
from tests.unit.test_api import PNG, api
from tests.unit.test_keys import guarded, key_file

LOGGER = "serve_app.http.middleware.access_log"


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == LOGGER]


async def test_a_request_leaves_one_line_with_its_key_work_and_outcome(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After an incident there was no list of requests, statuses, callers or ids."""
    caplog.set_level(logging.INFO, LOGGER)
    file, (key,) = key_file(tmp_path, "alice")
    async with guarded(KeyStore(str(file)), Limits(default_strategy="classic")) as client:
        headers = {"x-api-key": key, "x-request-id": "me-1"}
        await client.post("/v1/captions", files={"image": PNG}, data={"detail": "low"}, headers=headers)
        await client.post("/v1/captions", files={"image": b"Dear diary"}, headers={"x-api-key": key})
        await client.post("/v1/captions", files={"image": PNG})
        await client.get("/healthz")
        await client.get("/nowhere", headers={"x-api-key": key})
    first, broken, unknown, nowhere = lines(caplog)
    told = first.getMessage()
    for part in ("request=me-1", "key=alice", "method=POST", "route=/v1/captions", "status=200", "strategy=classic",
                 "captions=1", "rows=32"):  # fmt: skip
        assert part in told.split(), told
    assert vars(first)["bytes_received"] > len(PNG)
    assert vars(first)["ms"] > 0
    assert (vars(broken)["status"], vars(unknown)["status"], vars(nowhere)["status"]) == (415, 401, 404)
    assert not hasattr(unknown, "key")
    assert key not in caplog.text


@pytest.mark.parametrize(("setting", "count"), [("errors", 1), ("none", 0)])
async def test_lines_may_be_fewer(setting: str, count: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    async with api(limits=Limits(access_log=setting)) as (client, _):  # type: ignore[arg-type]
        await client.post("/v1/captions", files={"image": PNG})
        await client.post("/v1/captions", files={"image": b"x"})
    assert len(lines(caplog)) == count


async def test_a_bug_is_an_error_in_the_log_that_the_answer_names(caplog: pytest.LogCaptureFixture) -> None:
    def rule(prompt: str) -> str:
        raise ZeroDivisionError

    async with api(rule) as (client, _):
        answer = await client.post("/v1/captions", files={"image": PNG}, headers={"x-request-id": "me-2"})
    assert answer.status_code == 500
    assert "its log has the details under this request_id" in answer.json()["detail"]
    (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "me-2" in error.getMessage()
    assert error.exc_info


def test_records_go_where_serve_s_own_go_at_their_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve took an error for information from stderr, and kept it in a buffer of a thousand lines."""
    ours, serves, found = logging.getLogger("serve_app"), logging.getLogger("ray.serve"), list[logging.LogRecord]()
    monkeypatch.setattr(ours, "parent", ours.parent)
    monkeypatch.setattr(serves, "propagate", False)
    handler = logging.Handler()
    handler.emit = found.append  # type: ignore[method-assign]
    monkeypatch.setattr(serves, "handlers", [handler])
    monkeypatch.setattr(serves, "level", logging.INFO)
    logging.getLogger("serve_app.http.problems").manager._clear_cache()
    log_with_serve()
    logging.getLogger("serve_app.http.problems").error("broken")
    logging.getLogger("serve_app.engine.loading").info("loaded")
    assert [(record.levelname, record.getMessage()) for record in found] == [("ERROR", "broken"), ("INFO", "loaded")]
