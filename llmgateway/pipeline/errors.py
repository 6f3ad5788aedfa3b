"""Errors that may speak to a client. Types decide what happens next.

    GatewayError
    ├── BadRequestError              400  invalid_json, invalid_value
    │   ├── RequestTooLargeError     413  request_too_large
    │   ├── RequestTimeoutError      408  request_timeout
    │   └── UnsupportedMediaTypeError 415 unsupported_media_type
    ├── AuthenticationError          401  invalid_api_key
    ├── PermissionDeniedError        403  key_disabled, key_expired, key_not_yet_valid, ip_not_allowed, model_not_allowed,
    │                                     key_banned, tenant_not_allowed, own_keys_refused
    ├── NotFoundError                404  model_not_found, model_retired, unknown_endpoint
    ├── MethodNotAllowedError        405  method_not_allowed
    ├── RateLimitError               429  rate_limit_exceeded, concurrency_limit_exceeded, request_exceeds_limit
    ├── BudgetExceededError          402  insufficient_quota (status is a setting), model_not_priced, cost_not_boundable,
    │                                     max_cost_exceeded
    ├── OverloadedError              503  overloaded
    ├── NoTargetAvailableError       503  no_healthy_target
    ├── LedgerUnavailableError       503  ledger_unavailable
    ├── LimitsUnavailableError       503  limits_unavailable
    ├── ConfigurationStaleError      503  configuration_stale
    ├── APIConnectionError           502  upstream_connection_failed
    ├── UpstreamAuthenticationError  502  upstream_authentication_failed
    └── APITimeoutError              504  upstream_timeout

Names follow openai-python's, for callers catch those. No Django here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from llmgateway.pipeline.snapshot import Key

ErrorHeaders = tuple[tuple[bytes, bytes], ...]


class GatewayError(Exception):
    """An answer in place of a model's. The message says what to do next and names the object, never a secret.

    `type` and `code` are those of OpenAI's envelope; `param` is the request field at fault; `headers` go with the answer.
    """

    status: int = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: ErrorHeaders = (),
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.headers = headers
        if status is not None:
            self.status = status
        self.key: Key | None = None
        """Whose request was refused, where that is known."""


class BadRequestError(GatewayError):
    status = 400
    type = "invalid_request_error"
    default_code = "invalid_value"


class RequestTooLargeError(BadRequestError):
    status = 413
    default_code = "request_too_large"


class RequestTimeoutError(BadRequestError):
    status = 408
    default_code = "request_timeout"


class UnsupportedMediaTypeError(BadRequestError):
    status = 415
    default_code = "unsupported_media_type"


class AuthenticationError(GatewayError):
    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"


class PermissionDeniedError(GatewayError):
    status = 403
    type = "permission_error"
    default_code = "permission_denied"


class NotFoundError(GatewayError):
    status = 404
    type = "invalid_request_error"
    default_code = "unknown_endpoint"


class MethodNotAllowedError(GatewayError):
    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class RateLimitError(GatewayError):
    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"


class BudgetExceededError(GatewayError):
    status = 402
    type = "insufficient_quota"
    default_code = "insufficient_quota"


class OverloadedError(GatewayError):
    status = 503
    default_code = "overloaded"


class NoTargetAvailableError(GatewayError):
    status = 503
    default_code = "no_healthy_target"


class LedgerUnavailableError(GatewayError):
    status = 503
    default_code = "ledger_unavailable"


class LimitsUnavailableError(GatewayError):
    status = 503
    default_code = "limits_unavailable"


class ConfigurationStaleError(GatewayError):
    status = 503
    default_code = "configuration_stale"


class APIConnectionError(GatewayError):
    status = 502
    default_code = "upstream_connection_failed"


class UpstreamAuthenticationError(GatewayError):
    status = 502
    default_code = "upstream_authentication_failed"


class APITimeoutError(GatewayError):
    status = 504
    default_code = "upstream_timeout"
