"""Registers the management API with Django: an app of its own, for its tables are no configuration of requests."""

from django.apps import AppConfig


class ManagementApiConfig(AppConfig):
    name = "llmgateway.management_api"
    label = "management_api"
    verbose_name = "Management API"
