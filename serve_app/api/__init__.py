"""The HTTP API over a captioner object, without Ray and torch."""

from serve_app.api.app import create_app
from serve_app.api.keys import KEYS_VARIABLE, KeyStore
from serve_app.api.service import CaptionService
from serve_app.api.tasks import TaskService

__all__ = ["KEYS_VARIABLE", "CaptionService", "KeyStore", "TaskService", "create_app"]
