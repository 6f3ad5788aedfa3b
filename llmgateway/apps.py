"""Registers the llmgateway app with Django."""

from django.apps import AppConfig
from django.db.models.signals import post_migrate, pre_migrate


class LlmGatewayConfig(AppConfig):
    name = "llmgateway"
    verbose_name = "Access"

    def ready(self) -> None:
        from llmgateway import audit, question_vectors, roles, triggers

        audit.register_all()
        post_migrate.connect(roles.create_roles, dispatch_uid="llmgateway.roles")
        pre_migrate.connect(triggers.before_migrate, sender=self, dispatch_uid="llmgateway.triggers.before")
        post_migrate.connect(triggers.after_migrate, sender=self, dispatch_uid="llmgateway.triggers.after")
        post_migrate.connect(question_vectors.make_table, sender=self, dispatch_uid="llmgateway.question_vectors")
