"""Pages and the management API. The data plane's paths never reach Django; see `llmgateway.asgi`."""

from django.contrib import admin
from django.urls import include, path

from llmgateway.admin.explain import explain_page

handler500 = "llmgateway.management_api.middleware.server_error"

urlpatterns = [
    path("admin/explain/", admin.site.admin_view(explain_page), name="explain"),
    path("admin/", admin.site.urls),
    path("manage/api/v1/", include("llmgateway.management_api.urls")),
    path("", include("dashboard.urls")),
]
