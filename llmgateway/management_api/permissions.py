"""Whether who asks has the scope that the resource needs. Which rows they reach, the resource itself decides."""

from __future__ import annotations

from typing import Any

from rest_framework.exceptions import PermissionDenied
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from llmgateway.management_api.principals import principal_of


class Known(BasePermission):
    """Anybody who is known."""

    def has_permission(self, request: Request, view: Any) -> bool:
        return principal_of(request) is not None


class HasScope(BasePermission):
    """The view's `read_scope`, or its `write_scope` for methods that change something."""

    def has_permission(self, request: Request, view: Any) -> bool:
        principal = principal_of(request)
        if principal is None:
            return False
        scope = needed_scope(request, view)
        if scope and not principal.has(scope):
            raise PermissionDenied(f"The {principal.description} lacks the scope {scope}.")
        return True


def needed_scope(request: Request, view: Any) -> str:
    """The scope for this method of `view`; empty where there is none, which is answered 405."""
    scope: str = view.read_scope if request.method in SAFE_METHODS else view.write_scope
    return scope
