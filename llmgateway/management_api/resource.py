"""What every resource does alike: bounds by team, one transaction and one actor per write, entity tags, plain writes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import orjson
from django.db import transaction
from django.db.models import Model, QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.viewsets import GenericViewSet

from llmgateway.audit import acting_as, remote_address
from llmgateway.management_api.errors import PreconditionFailed
from llmgateway.management_api.permissions import needed_scope
from llmgateway.management_api.principals import Principal, Reach, principal_of

M = TypeVar("M", bound=Model)
P = ParamSpec("P")
V = TypeVar("V", bound="Resource[Any]")
W = TypeVar("W", bound="Writable[Any]")


def writes(
    handler: Callable[Concatenate[V, Request, P], Response],
) -> Callable[Concatenate[V, Request, P], Response]:
    """All of it or nothing, on record as the doing of who asks."""

    @wraps(handler)
    def write(view: V, request: Request, /, *args: P.args, **kwargs: P.kwargs) -> Response:
        principal = view.principal
        source = "management API" if principal.user else f"management API, {principal.description}"
        with acting_as(principal.user, source, remote_address(request)), transaction.atomic():
            return handler(view, request, *args, **kwargs)

    return write


class Resource(GenericViewSet[M], Generic[M]):
    """Rows of one kind, of the teams that who asks may see. Rows of others do not exist for them (404)."""

    read_scope = ""
    write_scope = ""
    lookup_value_regex = "[0-9]+"
    http_method_names = ["get", "head", "post", "patch", "delete"]
    volatile: tuple[str, ...] = ()
    """Fields that change without anybody writing them; they are no part of the entity tag."""

    @property
    def principal(self) -> Principal:
        found = principal_of(self.request)
        assert found is not None
        return found

    @property
    def reach(self) -> Reach:
        """The teams that this request may read, or write if it writes."""
        return self.principal.reach.get(needed_scope(self.request, self), frozenset())

    def rows(self, reach: Reach) -> QuerySet[M]:
        """What belongs to the teams of `reach`."""
        raise NotImplementedError

    def get_queryset(self) -> QuerySet[M]:
        if getattr(self, "swagger_fake_view", False):
            return self.rows(frozenset())
        return self.rows(self.reach)

    def locked(self) -> M:
        """The row to be written, locked, if it is still as `If-Match` says.

        Raises:
            PreconditionFailed: it is not.
        """
        queryset = self.get_queryset()
        self.get_object()
        # Locked by itself, in an order that needs no other table: a lock on outer joins PostgreSQL refuses.
        rows = queryset.model._default_manager.select_for_update().order_by("pk")  # noqa: SLF001  # Django's documented API
        rows.filter(pk=self.kwargs["pk"]).first()
        row = self.get_object()
        expected = self.request.headers.get("If-Match", "*")
        if expected != "*" and self.etag(row) not in [each.strip() for each in expected.split(",")]:
            raise PreconditionFailed
        return row

    def shown(self, row: M, status_code: int = status.HTTP_200_OK, **more: Any) -> Response:
        """The answer that shows one row, with its entity tag."""
        data = dict(self.get_serializer(row).data)
        return Response({**data, **more}, status_code, headers={"ETag": self.etag(row, data)})

    def etag(self, row: M, data: dict[str, Any] | None = None) -> str:
        data = dict(self.get_serializer(row).data) if data is None else data
        decided = {name: value for name, value in data.items() if name not in self.volatile}
        packed = orjson.dumps([decided, self.unshown(row)], option=orjson.OPT_SORT_KEYS, default=str)
        return f'"{hashlib.sha256(packed).hexdigest()[:20]}"'

    def unshown(self, row: M) -> str:
        """What belongs to the entity tag though it is never shown."""
        return ""

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        response.headers["Cache-Control"] = "no-store"
        return super().finalize_response(request, response, *args, **kwargs)


class Readable(mixins.ListModelMixin, Resource[M]):
    """A resource that can be listed and retrieved."""

    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return self.shown(self.get_object())


class Writable(Readable[M]):
    """A resource whose serializer saves what is sent. Say with `worded` what that means for its rows."""

    @writes
    def create(self, request: Request) -> Response:
        row = self.read(request).save()
        return self.shown(self.get_queryset().get(pk=row.pk), status.HTTP_201_CREATED)

    @writes
    def partial_update(self, request: Request, /, **kwargs: Any) -> Response:
        row = self.read(request, self.locked()).save()
        return self.shown(self.get_queryset().get(pk=row.pk))

    def read(self, request: Request, row: M | None = None) -> BaseSerializer[Any]:
        """What was sent, for a new row or for changes of `row`. Raises ValidationError by field."""
        serializer: BaseSerializer[Any] = self.get_serializer(row, data=request.data, partial=row is not None)
        serializer.is_valid(raise_exception=True)
        return serializer


class Removable(Writable[M]):
    """Its rows can be deleted too, unless the row itself forbids it."""

    @writes
    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        self.locked().delete()
        return Response(status=status.HTTP_204_NO_CONTENT)


def worded(*, create: str, change: str, delete: str = "") -> Callable[[type[W]], type[W]]:
    """What the API's description says of a resource's writes, by its own serializer."""

    def described(view: type[W]) -> type[W]:
        serializer: Any = view.serializer_class
        _word(view, "create", create, extend_schema(request=serializer, responses={201: serializer}))
        _word(view, "partial_update", change, extend_schema(request=serializer(partial=True), responses=serializer))
        if delete:
            _word(view, "destroy", delete, extend_schema(responses={204: None}))
        return view

    return described


def _word(view: type[Any], name: str, words: str, schema: Callable[[Any], Any]) -> None:
    """Give a view a method of its own, which is the inherited one but for its words."""
    inherited = getattr(view, name)

    @wraps(inherited)
    def method(self: Any, *args: Any, **kwargs: Any) -> Response:
        answer: Response = inherited(self, *args, **kwargs)
        return answer

    method.__doc__ = words
    setattr(view, name, schema(method))
