"""Registers the llmgateway app with Django."""

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class LlmGatewayConfig(AppConfig):
    name = "llmgateway"
    verbose_name = "Access"

    def ready(self) -> None:
        from llmgateway import audit, roles

        audit.register_all()
        post_migrate.connect(roles.create_roles, dispatch_uid="llmgateway.roles")
