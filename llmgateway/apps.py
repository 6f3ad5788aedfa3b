"""Registers the llmgateway app with Django."""

from django.apps import AppConfig


class LlmGatewayConfig(AppConfig):
    name = "llmgateway"
    verbose_name = "Access"
