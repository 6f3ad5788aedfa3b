"""What the OpenAPI document says beyond the resources: how to authenticate, which scope is needed, how errors look.

`DEFAULT_SCHEMA_CLASS` loads it when somebody asks for the document; what it needs takes 4 MB of a process.
"""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from rest_framework.permissions import SAFE_METHODS

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code", "fields"],
            "properties": {
                "message": {"type": "string", "description": "What is wrong and what to do, for people."},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The first field at fault."},
                "code": {"type": "string"},
                "fields": {
                    "type": "object",
                    "additionalProperties": {"type": "array", "items": {"type": "string"}},
                    "description": "What is wrong, by field.",
                },
            },
        }
    },
}
STATUSES = {
    "400": "A field or parameter is wrong; `fields` names it.",
    "401": "No valid token.",
    "403": "The scope is missing; the message names it.",
    "404": "There is no such row, or it belongs to another team.",
    "409": "Not possible as things stand.",
    "412": "It was changed since the entity tag of `If-Match`.",
    "422": "The `Idempotency-Key` came with another body before.",
    "429": "Too many requests; see `Retry-After`.",
}
_METHODS = ("get", "post", "patch", "delete")


# What lists and single rows do needs no words of each resource's own.
_SUMMARIES = {"list": "List", "retrieve": "Show one"}


class Operations(AutoSchema):
    """Says of every operation which scope it needs."""

    def get_summary(self) -> str | None:
        action = getattr(self.view, "action", "")
        return _SUMMARIES.get(action) or self._words().partition("\n")[0].partition(". ")[0].rstrip(".") or None

    def get_description(self) -> str:  # type: ignore[override]  # mypy is told the next line
        view: Any = self.view
        scope = view.read_scope if self.method in SAFE_METHODS else view.write_scope
        return f"{self._words()}\n\nNeeds the scope `{scope}`."

    def _words(self) -> str:
        return super().get_description() or ""


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # the library has no types
    """Names the token in the schema."""

    target_class = "llmgateway.management_api.authentication.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "A management token: `gw-mgmt-…`"}


def add_errors(result: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
    """Give every operation the answers that any may have."""
    result["components"]["schemas"]["Error"] = ERROR
    for path in result["paths"].values():
        for method in _METHODS:
            if method in path:
                _add_to(path[method], method)
    return result


def _add_to(operation: dict[str, Any], method: str) -> None:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    possible = {"400", "401", "403", "429"}
    of_one_row = any(parameter["in"] == "path" for parameter in operation.get("parameters", ()))
    if of_one_row:
        possible.add("404")
    if method == "patch" or (of_one_row and method != "get"):
        possible |= {"409", "412"}
        operation.setdefault("parameters", []).append(_IF_MATCH)
    if any(parameter["name"] == "Idempotency-Key" for parameter in operation.get("parameters", ())):
        possible.add("422")
    for status in sorted(possible):
        operation["responses"].setdefault(status, {"description": STATUSES[status], "content": content})


_IF_MATCH = {
    "in": "header",
    "name": "If-Match",
    "schema": {"type": "string"},
    "description": "The `ETag` of the answer that the decision rests on. Absent: written whatever happened since.",
}
