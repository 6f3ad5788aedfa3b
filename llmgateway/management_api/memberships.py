"""Memberships: who is in which team, as what."""

from __future__ import annotations

from typing import Any

import django_filters
from django.contrib.auth.models import User
from django.db.models import QuerySet
from rest_framework import serializers

from llmgateway import services
from llmgateway.management_api.fields import Saved, TeamField, within
from llmgateway.management_api.principals import Reach
from llmgateway.management_api.resource import Removable, worded
from llmgateway.models import Membership


class PersonField(serializers.SlugRelatedField[User]):
    """Somebody by user name, or by an address that nobody else has."""

    default_error_messages = {
        "does_not_exist": "There is no user {value}; the configuration file or an owner makes new ones.",
        "invalid": "Write a user name or an address.",
        "several": "Several users have {value}; write the user name.",
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(slug_field="username", queryset=User.objects.all(), **kwargs)

    def to_internal_value(self, data: Any) -> User:
        if not isinstance(data, str) or "\0" in data:
            self.fail("invalid")
        found = list(User.objects.filter(username=data)) or list(User.objects.filter(email__iexact=data)[:2])
        if len(found) > 1:
            self.fail("several", value=data)
        if not data or not found:
            self.fail("does_not_exist", value=data)
        return found[0]


class MembershipSerializer(Saved[Membership]):
    team = TeamField(help_text="The team's name.")
    user = PersonField(help_text="The user name; written, it may also be an e-mail address.")
    email = serializers.EmailField(source="user.email", read_only=True)

    class Meta:
        model = Membership
        fields = ("id", "team", "user", "email", "role")
        # Uniqueness is checked below, with a message that says what to do.
        validators: tuple[Any, ...] = ()

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if isinstance(self.instance, Membership):
            for name in ("team", "user"):
                if attrs.get(name, getattr(self.instance, name)) != getattr(self.instance, name):
                    raise serializers.ValidationError(
                        {name: "A membership stays with its team and its person; create another and delete this one."}
                    )
        elif Membership.objects.filter(team=attrs["team"], user=attrs["user"]).exists():
            raise serializers.ValidationError(
                {"user": f"{attrs['user']} is in the team {attrs['team']} already; change that membership."}
            )
        return attrs

    def write(self, row: Membership, columns: dict[str, Any]) -> None:
        for name, value in columns.items():
            setattr(row, name, value)
        saved = services.membership_set(row.team, row.user, row.role)
        row.pk = saved.pk


class MembershipFilters(django_filters.FilterSet):  # type: ignore[misc]  # the library has no types
    team = django_filters.CharFilter("team__name", label="The team's name.")
    user = django_filters.CharFilter("user__username", label="The user name.")
    role = django_filters.ChoiceFilter(choices=Membership.Role.choices)


@worded(
    create="Take somebody into a team. People are not made here.",
    change="Change the role.",
    delete="Take somebody out of a team. The keys of the team stay as they are.",
)
class MembershipViewSet(Removable[Membership]):
    """Who is in which team, and what they may do there. Who reaches certain teams alone sees those teams' members."""

    serializer_class = MembershipSerializer
    read_scope, write_scope = "memberships:read", "memberships:write"
    filterset_class = MembershipFilters
    search_fields = ("user__username", "user__email", "team__name")
    ordering_fields = ("team__name", "user__username", "id")
    ordering = ("team__name", "user__username")

    def rows(self, reach: Reach) -> QuerySet[Membership]:
        return within(Membership.objects.select_related("team", "user"), "team", reach)
