"""Pages: the admin and the dashboard. The data plane's paths never reach Django; see `llmgateway.asgi`."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("dashboard.urls")),
]
