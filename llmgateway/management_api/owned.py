"""What limits and budgets share: each belongs to a key, a team, a provider, a deployment, an alias, or to everyone."""

from __future__ import annotations

from typing import Any, TypeVar

import django_filters
from django.db.models import Model, Q, QuerySet
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers, status
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from llmgateway.limit_terms import OWNERS
from llmgateway.management_api.fields import NameField, StrictModel, TeamField, within, writable
from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import Readable, writes
from llmgateway.models import ApiKey, Team
from llmgateway.searches import PART_OF_NAME, of_teams, owned_by_named
from providers.models import Deployment, ModelAlias, Provider

M = TypeVar("M", bound=Model)
AnyField = serializers.Field[Any, Any, Any, Any]
GLOBAL = "global"
SCOPES = (*OWNERS, GLOBAL)


class KeyField(NameField):
    """A key that who asks may write; any other does not exist for them."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(queryset=ApiKey.objects.all(), **kwargs)

    def get_queryset(self) -> QuerySet[Any]:
        return within(ApiKey.objects.all(), "team", writable(self.context))


class OwnedSerializer(StrictModel[M]):
    """The owner's name stands in the field of its kind; whose it is cannot be changed."""

    scope = serializers.SerializerMethodField(help_text="Whose it is; `global`: everyone's together.")
    key: AnyField = serializers.CharField(source="key.name", read_only=True, allow_null=True)
    team: AnyField = serializers.CharField(source="team.name", read_only=True, allow_null=True)
    provider: AnyField = serializers.CharField(source="provider.name", read_only=True, allow_null=True)
    deployment: AnyField = serializers.CharField(source="deployment.name", read_only=True, allow_null=True)
    alias: AnyField = serializers.CharField(source="alias.name", read_only=True, allow_null=True)

    @extend_schema_field(serializers.ChoiceField(choices=SCOPES))
    def get_scope(self, row: Any) -> str:
        return next((owner for owner in OWNERS if getattr(row, f"{owner}_id") is not None), GLOBAL)


class NewOwned(serializers.Serializer[Any]):
    """Mixed into the serializers of new rows: at most one owner is named, none for everyone's."""

    key: AnyField = KeyField(required=False, allow_null=True)
    team: AnyField = TeamField(required=False, allow_null=True)
    provider: AnyField = NameField(queryset=Provider.objects.all(), required=False, allow_null=True)
    deployment: AnyField = NameField(queryset=Deployment.objects.all(), required=False, allow_null=True)
    alias: AnyField = NameField(queryset=ModelAlias.objects.all(), required=False, allow_null=True)


class OwnedFilters(django_filters.FilterSet):  # type: ignore[misc]  # the library has no types
    key = django_filters.CharFilter("key__name", label="The key's name.")
    team = django_filters.CharFilter("team__name", label="The name of the team whose own it is.")
    team_or_its_keys = django_filters.CharFilter(
        method="of_team_or_its_keys", label="The name of a team: its own, and those of its keys."
    )
    provider = django_filters.CharFilter("provider__name", label="The provider's name.")
    deployment = django_filters.CharFilter("deployment__name", label="The deployment's name.")
    alias = django_filters.CharFilter("alias__name", label="The alias's name.")
    scope = django_filters.ChoiceFilter(method="of_scope", choices=[(scope, scope) for scope in SCOPES])
    enabled = django_filters.BooleanFilter("enabled")

    def of_team_or_its_keys(self, rows: QuerySet[Any], _name: str, team: str) -> QuerySet[Any]:
        return rows.filter(of_teams(list(Team.objects.filter(name=team)), ApiKey.objects.all()))

    def of_scope(self, rows: QuerySet[Any], _name: str, scope: str) -> QuerySet[Any]:
        if scope == GLOBAL:
            return rows.filter(**{f"{owner}__isnull": True for owner in OWNERS})
        return rows.filter(**{f"{scope}__isnull": False})


class Owned(Readable[M]):
    """Who reaches certain teams alone sees those teams' rows and their keys', and changes only the keys'.

    A team's own limits and budgets are what the organisation holds the team to.
    """

    noun = ""
    new_serializer_class: type[serializers.BaseSerializer[Any]]

    def within_teams(self, rows: QuerySet[M], reach: Reach) -> QuerySet[M]:
        if reach is None:
            return rows
        if self.action == "list":
            return rows.filter(of_teams(list(reach), ApiKey.objects.all()))
        return rows.filter(Q(team__in=reach) | Q(key__team__in=reach))

    def matching(self, word: str) -> Q:
        """Rows whose owner's name has this word in it."""
        return owned_by_named(self.get_queryset().model, PART_OF_NAME, word)

    def get_serializer_class(self) -> type[serializers.BaseSerializer[Any]]:
        return self.new_serializer_class if self.action == "create" else super().get_serializer_class()

    def make(self, columns: dict[str, Any]) -> M:
        """Save a new row. Raises ValidationError by field."""
        raise NotImplementedError

    def change(self, row: M, columns: dict[str, Any]) -> None:
        """Save changes. Raises ValidationError by field."""
        raise NotImplementedError

    @writes
    def create(self, request: Request) -> Response:
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        self._check_owner(serializer.validated_data.get("key"))
        row = self.make(serializer.validated_data)
        return self.shown_again(row, status.HTTP_201_CREATED)

    @writes
    def partial_update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Change what is named in the body, and leave the rest. It applies to the next request."""
        row = self.owned()
        serializer = self.get_serializer(row, data=request.data, partial=True)
        serializer.is_valid(raise_exception=True)
        self.change(row, serializer.validated_data)
        return self.shown_again(row)

    @writes
    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Delete it: from the next request on it does not count."""
        self.owned().delete()
        return Response(status=status.HTTP_204_NO_CONTENT)

    def owned(self) -> M:
        """The row to be written, locked, if who asks may change it."""
        row: Any = self.locked()
        self._check_owner(row.key)
        owned: M = row
        return owned

    def shown_again(self, row: M, status_code: int = status.HTTP_200_OK) -> Response:
        """As it stands in the database now, whatever serializer the request was read with."""
        fresh = self.get_queryset().get(pk=row.pk)
        self.action = "retrieve"
        return self.shown(fresh, status_code)

    def _check_owner(self, key: ApiKey | None) -> None:
        if key is None and not self.principal.has_everywhere(self.write_scope):
            raise PermissionDenied(
                f"The {self.principal.description} may set {self.noun} of its team's keys alone; name a key."
            )
