"""How REST framework and the schema are set up, for settings. No model is imported here, for settings come first."""

from __future__ import annotations

from typing import Any

REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "llmgateway.management_api.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["llmgateway.management_api.permissions.HasScope"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_THROTTLE_CLASSES": ["llmgateway.management_api.throttles.PrincipalThrottle"],
    "DEFAULT_PAGINATION_CLASS": "llmgateway.management_api.pagination.Pages",
    "DEFAULT_FILTER_BACKENDS": [
        "llmgateway.management_api.filters.Filters",
        "llmgateway.management_api.filters.Search",
        "llmgateway.management_api.filters.Ordering",
    ],
    "DEFAULT_METADATA_CLASS": None,
    "DEFAULT_SCHEMA_CLASS": "llmgateway.management_api.schema.Operations",
    "EXCEPTION_HANDLER": "llmgateway.management_api.errors.handle",
    "SEARCH_PARAM": "search",
}

DESCRIPTION = """\
Everything that manages the gateway: keys, limits, budgets, prices, usage. Send a management token as
`Authorization: Bearer gw-mgmt-…`; here in the browser your log-in counts as well.

Money is exact: dollars as decimal text (`*_usd`), and the same as integers of pico-dollars, 10⁻¹² USD (`*_pico_usd`).
Errors are `{"error": {"message", "type", "param", "code", "fields"}}`, where `fields` names what is wrong by field.
"""

SPECTACULAR_SETTINGS: dict[str, Any] = {
    "TITLE": "LLM Gateway management API",
    "DESCRIPTION": DESCRIPTION,
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SCHEMA_PATH_PREFIX": "/manage/api/v1",
    "SERVE_PERMISSIONS": ["llmgateway.management_api.permissions.Known"],
    "SERVE_INCLUDE_SCHEMA": False,
    "COMPONENT_SPLIT_REQUEST": True,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "docExpansion": "list", "tryItOutEnabled": False},
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "llmgateway.management_api.schema.add_errors",
    ],
    "ENUM_NAME_OVERRIDES": {
        "LimitEach": "llmgateway.models.RateLimit.Each",
        "BudgetEach": "billing.models.Budget.Each",
        "KindEnum": "billing.reporters.models.UsageReporter.Kind",
        "SourceKind": "llmgateway.models.AuthSource.Kind",
    },
}
