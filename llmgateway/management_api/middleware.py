"""What concerns a request to the management API before any view has it, and when none could answer."""

from __future__ import annotations

import logging
import sys
import uuid
from collections.abc import Awaitable, Callable

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.views import defaults

Answer = HttpResponseBase | Awaitable[HttpResponseBase]

ROOT = "/manage/api/v1/"
REQUEST_ID = "x-request-id"

logger = logging.getLogger(__name__)


class ManagementApiMiddleware:
    """Takes a path with a slash at its end for the same without, and gives each answer an id to ask about."""

    async_capable = True
    sync_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Answer]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Answer:
        if request.path_info.startswith(ROOT) and request.path_info != ROOT:
            request.path_info = request.path_info.rstrip("/")
        answer = self.get_response(request)
        if isinstance(answer, HttpResponseBase):
            return _with_id(request, answer)
        return self._after(request, answer)

    async def _after(self, request: HttpRequest, answer: Awaitable[HttpResponseBase]) -> HttpResponseBase:
        return _with_id(request, await answer)


def _with_id(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    if request.path.startswith(ROOT):
        response.headers.setdefault(REQUEST_ID, request_id_of(request))
    return response


def request_id_of(request: HttpRequest) -> str:
    """The id of this request, as in its answer and in the log."""
    found: str = request.__dict__.setdefault("management_request_id", f"mreq_{uuid.uuid4().hex}")
    return found


def server_error(request: HttpRequest) -> HttpResponse:
    """Something of ours is broken: programs get what they can read, people Django's page."""
    if not request.path.startswith(ROOT):
        return defaults.server_error(request)
    request_id = request_id_of(request)
    # Django calls this while it handles the exception.
    told = {"request_id": request_id, "path": request.path}
    logger.error("the management API failed", extra=told, exc_info=sys.exc_info())
    error: dict[str, object] = {
        "message": f"Something went wrong inside the gateway. Try again; if it stays so, show operators {request_id}.",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
        "fields": {},
    }
    return JsonResponse({"error": error}, status=500, headers={REQUEST_ID: request_id, "Cache-Control": "no-store"})
