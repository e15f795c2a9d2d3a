"""The service without HTTP, Ray and torch: intake, admission, keys, captions and the other tasks."""

from serve_app.service.captions import CaptionService
from serve_app.service.keys import FILE_VARIABLE, KEYS_VARIABLE, KeyStore
from serve_app.service.tasks import TaskService

__all__ = ["FILE_VARIABLE", "KEYS_VARIABLE", "CaptionService", "KeyStore", "TaskService"]
