"""API keys: created, changed, rotated, disabled, revoked. A secret stands in one answer and nowhere else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import django_filters
import orjson
from django.core.exceptions import ValidationError
from django.db import IntegrityError
from django.db.models import Q, QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from llmgateway import selectors, services
from llmgateway.key_secrets import digest, shown_id
from llmgateway.management_api.errors import IdempotencyKeyReused
from llmgateway.management_api.fields import NameField, Strict, StrictModel, TeamField, within, writable
from llmgateway.management_api.filters import IdFilter
from llmgateway.management_api.models import KeyCreation
from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import Readable, writes
from llmgateway.models import ApiKey, NetworkList
from llmgateway.searches import part_of
from providers.models import ModelAlias

Value = TypeVar("Value", int, bool)
STATES = ("active", "disabled", "revoked", "expired", "not yet valid")
REMEMBERED_FOR = timedelta(hours=24)
"""How long an `Idempotency-Key` is known."""
LONGEST_IDEMPOTENCY_KEY = 255


class KeySerializer(StrictModel[ApiKey]):
    team = TeamField(help_text="The team's name.")
    team_id = serializers.IntegerField(read_only=True)
    masked = serializers.CharField(read_only=True, help_text="How the key may be shown.")
    state = serializers.SerializerMethodField(help_text="Active keys are let in.")
    allowed_models = serializers.ListField(
        child=serializers.CharField(), required=False, help_text="Model aliases it may call; none: all."
    )
    allowed_ips = serializers.ListField(
        child=serializers.CharField(), required=False, help_text="Addresses and networks of this key alone."
    )
    network_lists = NameField(
        many=True, required=False, source="networks", queryset=NetworkList.objects.all(),
        help_text="Names of shared lists of addresses.",
    )  # fmt: skip
    tenants = TeamField(
        many=True, required=False, help_text="Further teams that its requests may name as their tenant."
    )

    class Meta:
        model = ApiKey
        fields: tuple[str, ...] = (
            "id", "name", "team", "team_id", "public_id", "masked", "state", "enabled", "user_id", "allowed_models",
            "allowed_ips", "network_lists", "priority", "may_bypass_health", "tenants", "starts_at", "expires_at", "previous_valid_until", "revoked_at",
            "created_at",
        )  # fmt: skip
        read_only_fields = ("public_id", "previous_valid_until", "revoked_at")

    def get_state(self, key: ApiKey) -> str:
        return selectors.key_state(key)

    def validate_priority(self, priority: int) -> int:
        return self._of_everyone(priority, self.instance.priority if isinstance(self.instance, ApiKey) else 0)

    def validate_may_bypass_health(self, may: bool) -> bool:
        return self._of_everyone(may, self.instance.may_bypass_health if isinstance(self.instance, ApiKey) else False)

    def _of_everyone(self, wanted: Value, present: Value) -> Value:
        """What gives a key the advantage over those of other teams, no team decides alone."""
        if wanted != present and writable(self.context) is not None:
            raise serializers.ValidationError("Only who may write keys of every team changes this.")
        return wanted

    def validate_allowed_models(self, names: list[str]) -> list[str]:
        # A name that the key has already may stay, though its alias is gone.
        kept = set(self.instance.allowed_models) if isinstance(self.instance, ApiKey) else set()
        fresh = [name for name in names if name not in kept]
        known = set(ModelAlias.objects.filter(name__in=fresh).values_list("name", flat=True)) if fresh else set()
        if gone := [name for name in fresh if name not in known]:
            raise serializers.ValidationError(f"There is no model alias {', '.join(gone)}.")
        return names

    def update(self, instance: ApiKey, validated_data: dict[str, Any]) -> ApiKey:
        services.key_update(instance, **validated_data)
        return instance


class NewKeySerializer(KeySerializer):
    secret = serializers.CharField(
        required=False, write_only=True, trim_whitespace=False, max_length=500,
        help_text="A secret of your own, of a key that moves here. Leave it out for a fresh one, which is best.",
    )  # fmt: skip

    class Meta(KeySerializer.Meta):
        fields = (*KeySerializer.Meta.fields, "secret")


class KeyWithSecretSerializer(KeySerializer):
    secret = serializers.CharField(
        read_only=True, allow_null=True,
        help_text="Shown this once. Null where an `Idempotency-Key` was sent again: it is not kept; rotate the key.",
    )  # fmt: skip

    class Meta(KeySerializer.Meta):
        fields = (*KeySerializer.Meta.fields, "secret")


class RotationSerializer(Strict):
    grace_s = serializers.IntegerField(
        min_value=0,
        max_value=int(services.MAX_GRACE.total_seconds()),
        default=int(services.DEFAULT_GRACE.total_seconds()),
        help_text="For how many seconds the present secret works on beside the new one; 0 ends it at once.",
    )


class KeyFilters(django_filters.FilterSet):  # type: ignore[misc]  # the library has no types
    team = django_filters.CharFilter("team__name", label="The team's name.")
    team_id = IdFilter("team_id")
    name = django_filters.CharFilter("name", label="The whole name.")
    public_id = django_filters.CharFilter("public_id")
    user_id = django_filters.CharFilter("user_id")
    state = django_filters.ChoiceFilter(method="of_state", choices=[(state, state) for state in STATES])
    expires_before = django_filters.IsoDateTimeFilter("expires_at", "lt")
    created_after = django_filters.IsoDateTimeFilter("created_at", "gte")

    def of_state(self, keys: QuerySet[ApiKey], _name: str, state: str) -> QuerySet[ApiKey]:
        now = timezone.now()
        if state == "revoked":
            return keys.filter(revoked_at__isnull=False)
        keys = keys.filter(revoked_at=None, enabled=state != "disabled")
        if state == "disabled":
            return keys
        expired, early = Q(expires_at__isnull=False, expires_at__lte=now), Q(starts_at__isnull=False, starts_at__gt=now)
        conditions = {"expired": expired, "not yet valid": early & ~expired, "active": ~early & ~expired}
        return keys.filter(conditions[state])


_IDEMPOTENCY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="Send a fresh random text with each new key. The same text again within 24 hours creates no second key.",
)


class KeyViewSet(Readable[ApiKey]):
    """API keys. Applications send them; their secrets are shown once, when they are made."""

    serializer_class = KeySerializer
    read_scope, write_scope = "keys:read", "keys:write"
    filterset_class = KeyFilters
    search_fields = ("name", "=public_id", "=user_id")
    ordering_fields = ("name", "created_at", "expires_at", "id")
    ordering = ("name",)
    volatile = ("state",)

    def rows(self, reach: Reach) -> QuerySet[ApiKey]:
        keys = ApiKey.objects.select_related("team").prefetch_related("networks", "tenants")
        return within(keys, "team", reach)

    def matching(self, word: str) -> Q:
        """Keys whose name has this word in it, or whose public id or owner it is."""
        return part_of("name", word) | Q(public_id__iexact=shown_id(word)) | Q(user_id__iexact=word)

    def unshown(self, row: ApiKey) -> str:
        return hashlib.sha256(f"state:{row.digest}".encode()).hexdigest()

    def get_serializer_class(self) -> type[KeySerializer]:
        return NewKeySerializer if self.action == "create" else KeySerializer

    @extend_schema(
        request=NewKeySerializer,
        responses={201: KeyWithSecretSerializer, 200: KeyWithSecretSerializer},
        parameters=[_IDEMPOTENCY],
    )
    def create(self, request: Request) -> Response:
        """Create a key. The answer shows its secret, this once."""
        idempotency_key = self._idempotency_key(request)
        if not idempotency_key:
            return self._create(request, "")
        try:
            return self._earlier(request, idempotency_key) or self._create(request, idempotency_key)
        except (IntegrityError, ValidationError, serializers.ValidationError):
            # The same request may have won a race against this one: then its key is the answer.
            if (earlier := self._earlier(request, idempotency_key)) is not None:
                return earlier
            raise

    @writes
    def _create(self, request: Request, idempotency_key: str) -> Response:
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        key, secret = services.key_create(**serializer.validated_data)
        if idempotency_key:
            KeyCreation.objects.filter(created_at__lt=timezone.now() - REMEMBERED_FOR).delete()
            KeyCreation.objects.create(
                principal=self.principal.id,
                idempotency_key=idempotency_key,
                request_digest=_digests(request.data)[0],
                key=key,
            )
        return self.shown(key, status.HTTP_201_CREATED, secret=secret)

    def _idempotency_key(self, request: Request) -> str:
        text = request.headers.get("Idempotency-Key", "").strip()
        if len(text) > LONGEST_IDEMPOTENCY_KEY:
            raise ValidationError({"Idempotency-Key": f"Use at most {LONGEST_IDEMPOTENCY_KEY} characters."})
        return text

    def _earlier(self, request: Request, idempotency_key: str) -> Response | None:
        found = KeyCreation.objects.filter(
            principal=self.principal.id,
            idempotency_key=idempotency_key,
            created_at__gte=timezone.now() - REMEMBERED_FOR,
        ).first()
        if found is None:
            return None
        if found.request_digest not in _digests(request.data):
            raise IdempotencyKeyReused
        # Who lost the key's team since must not see it by repeating the request.
        key = self.get_queryset().filter(pk=found.key_id).first()
        if key is None:
            raise IdempotencyKeyReused("The key of this Idempotency-Key is not yours any more. Use a fresh one.")
        response = self.shown(key, secret=None)
        response.headers["Idempotent-Replayed"] = "true"
        return response

    @extend_schema(request=KeySerializer, responses=KeySerializer)
    @writes
    def partial_update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Change what is named in the body, and leave the rest."""
        key = self.locked()
        serializer = self.get_serializer(key, data=request.data, partial=True)
        serializer.is_valid(raise_exception=True)
        serializer.save()
        return self.shown(self.get_object())

    @extend_schema(request=RotationSerializer, responses=KeyWithSecretSerializer)
    @action(detail=True, methods=["post"])
    @writes
    def rotate(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Make a new secret, shown this once. The present one works on for a while beside it."""
        key = self.locked()
        rotation = RotationSerializer(data=request.data)
        rotation.is_valid(raise_exception=True)
        secret = services.key_rotate(key, timedelta(seconds=rotation.validated_data["grace_s"]))
        return self.shown(self.get_object(), secret=secret)

    @extend_schema(request=None, responses=KeySerializer)
    @action(detail=True, methods=["post"])
    @writes
    def disable(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Stop the key until it is enabled again."""
        return self._apply(services.key_disable)

    @extend_schema(request=None, responses=KeySerializer)
    @action(detail=True, methods=["post"])
    @writes
    def enable(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Let a disabled key work again."""
        return self._apply(services.key_enable)

    @extend_schema(request=None, responses=KeySerializer)
    @action(detail=True, methods=["post"])
    @writes
    def revoke(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """End the key for good. Its usage stays."""
        return self._apply(services.key_revoke)

    def _apply(self, service: Callable[[ApiKey], None]) -> Response:
        service(self.locked())
        return self.shown(self.get_object())


def _digests(body: Any) -> list[str]:
    """Of a request's body, under each pepper, the newest first: it may hold a secret that somebody chose."""
    packed = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    return [digest(packed, pepper).hex() for pepper in services.peppers()]
