"""Who did what: every change of configuration is written to django-auditlog with actor, time, address and diff.

Pages get their actor from `ActorMiddleware`; commands and imports say who they are with `acting_as`. Changes that go
past the models (`QuerySet.update`, `bulk_create`, raw SQL) are outside its reach: they take effect like all others,
but leave no entry here.
"""

# `_meta` is Django's documented interface to models, whatever its underscore says.
# ruff: noqa: SLF001

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.apps import apps
from django.db.models import Model
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from llmgateway import conf as conf_module

if TYPE_CHECKING:
    from django.contrib.auth.models import User

HIDDEN = "(hidden)"

# model -> the fields whose values never reach the log
CONFIGURATION: dict[str, tuple[str, ...]] = {
    "auth.Group": (),
    "auth.User": ("password",),
    "billing.Budget": (),
    "billing.BudgetCredit": (),
    "billing.Price": (),
    "billing.UsageReporter": ("encrypted_secret", "encrypted_headers"),
    "llmgateway.ApiKey": ("digest", "previous_digest"),
    "llmgateway.AuthSource": (),
    "llmgateway.BannedKey": (),
    "llmgateway.GatewaySettings": (),
    "llmgateway.KeyNetwork": (),
    "llmgateway.KeyTenant": (),
    "llmgateway.Membership": (),
    "llmgateway.NetworkList": (),
    "llmgateway.RateLimit": (),
    "llmgateway.Team": (),
    "management_api.ManagementToken": ("digest",),
    "providers.AliasFallback": (),
    "providers.AliasRule": (),
    "providers.AliasTarget": (),
    "providers.CatalogueEntry": (),
    "providers.Credential": ("encrypted_secret",),
    "providers.Deployment": (),
    "providers.ModelAlias": (),
    "providers.Provider": (),
}

# Rows that are a part of another: their changes are shown there too. The first relation that is set names the whole.
PARENTS: dict[str, tuple[str, ...]] = {
    "billing.Budget": ("key", "team", "provider", "deployment", "alias"),
    "billing.BudgetCredit": ("budget",),
    "llmgateway.KeyNetwork": ("key",),
    "llmgateway.KeyTenant": ("key",),
    "llmgateway.Membership": ("team",),
    "llmgateway.RateLimit": ("key", "team", "provider", "deployment", "alias"),
    "providers.AliasFallback": ("alias",),
    "providers.AliasRule": ("alias",),
    "providers.AliasTarget": ("alias",),
    "providers.Credential": ("provider",),
}

# Written on every log-in; not configuration.
IGNORED = frozenset({"last_login"})


@dataclass(frozen=True, slots=True)
class Acting:
    """Who changes things right now, and through what."""

    user: Callable[[], User | None]
    """Asked only when something was changed: to find the user of a request costs two queries."""
    source: str
    remote_address: str | None = None


_acting: ContextVar[Acting | None] = ContextVar("acting", default=None)


@contextmanager
def acting_as(user: User | None = None, source: str = "", remote_address: str | None = None) -> Iterator[None]:
    """Changes inside this block are by `user` (None: nobody who is known) through `source`, from `remote_address`.

    Example:
        with acting_as(source="command import_config"):
            apply(plan)
    """
    token = _acting.set(Acting(user=lambda: user, source=source, remote_address=remote_address))
    try:
        yield
    finally:
        _acting.reset(token)


class ActorMiddleware:
    """The person who is logged in is the actor of what a page changes."""

    async_capable = True
    sync_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self.is_async:
            return self._answer(request)
        token = _acting.set(_acting_in(request))
        try:
            return self.get_response(request)
        finally:
            _acting.reset(token)

    async def _answer(self, request: HttpRequest) -> HttpResponseBase:
        token = _acting.set(_acting_in(request))
        try:
            answer = self.get_response(request)
            return answer if isinstance(answer, HttpResponseBase) else await answer
        finally:
            _acting.reset(token)


def _acting_in(request: HttpRequest) -> Acting:
    def user() -> User | None:
        return request.user if request.user.is_authenticated else None

    source = "admin" if request.path.startswith("/admin/") else "page"
    return Acting(user=user, source=source, remote_address=remote_address(request))


def remote_address(request: HttpRequest) -> str | None:
    """The address of the person: the peer's, or what trusted proxies say in `X-Forwarded-For`. None: unknown."""
    forwarded = request.headers.get("X-Forwarded-For", "").split(",")
    hops = [request.META.get("REMOTE_ADDR", ""), *(hop.strip() for hop in reversed(forwarded))]
    trusted = [ipaddress.ip_network(text) for text in conf_module.conf.trusted_proxies]
    address = None
    for hop in hops:
        try:
            parsed = ipaddress.ip_address(hop)
        except ValueError:
            break
        address = str(parsed)
        if not any(parsed in network for network in trusted):
            break
    return address


def hide(value: str) -> str:
    """Stands in the log for a secret: that it was set, changed or removed is on record, not what it was."""
    return HIDDEN if value not in {"", "None"} else ""


def object_reference(instance: Model) -> str:
    """Names an object in the log, such as `llmgateway.apikey:5`."""
    return f"{instance._meta.label_lower}:{instance.pk}"


def register_all() -> None:
    """Start to record changes of all configuration models; called once, when the apps are ready."""
    from auditlog import get_logentry_model
    from auditlog.registry import auditlog
    from django.db.models.signals import pre_save

    for label, hidden in CONFIGURATION.items():
        model = apps.get_model(label)
        auditlog.register(
            model,
            # Named, for otherwise the diff of a new row lists its reverse relations as well.
            include_fields=[field.name for field in model._meta.concrete_fields if field.name not in IGNORED],
            mask_fields=list(hidden),
            mask_callable="llmgateway.audit.hide",
            m2m_fields={field.name for field in model._meta.many_to_many if _is_plain(field)},
        )
        if label in PARENTS:
            model.add_to_class("get_additional_data", _parent_data)  # auditlog asks for it
    pre_save.connect(_complete_entry, sender=get_logentry_model(), dispatch_uid="llmgateway.audit")


def _is_plain(field: Any) -> bool:
    """Whether Django made the table in between; otherwise it is a model, and recorded as such."""
    return bool(field.remote_field.through._meta.auto_created)


def _parent_data(instance: Model) -> dict[str, str]:
    for name in PARENTS[instance._meta.label]:
        field = instance._meta.get_field(name)
        pk = getattr(instance, field.attname)  # type: ignore[union-attr]  # the fields named above are relations
        if pk is not None:
            return {"parent": f"{field.related_model._meta.label_lower}:{pk}"}  # type: ignore[union-attr]
    return {}


def _complete_entry(instance: Any, **_kwargs: Any) -> None:
    if not instance._state.adding:
        return
    extra = dict(instance.additional_data or {})
    # `cid` is indexed and otherwise unused: by it the page of the whole finds the entries of its parts.
    instance.cid = extra.pop("parent", None)
    acting = _acting.get()
    if acting is not None:
        user = acting.user()
        if user is not None and instance.actor is None:
            instance.actor, instance.actor_email = user, user.email
        instance.remote_addr = acting.remote_address
        extra["source"] = acting.source
    instance.additional_data = extra or None
