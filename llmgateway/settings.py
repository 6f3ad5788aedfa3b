"""Django settings. Every value that an operator may set is a `Setting` in `llmgateway.conf`; this file only arranges them."""

from __future__ import annotations

import os
import sys
from typing import Any

import environ
from django.core.exceptions import ImproperlyConfigured
from django.urls import reverse_lazy

from llmgateway import conf as conf_module
from llmgateway.conf import PROJECT_ROOT, Conf, read_environment
from llmgateway.management_api.config import REST_FRAMEWORK, SPECTACULAR_SETTINGS  # noqa: F401  # settings of the API
from llmgateway.navigation import UNFOLD  # noqa: F401  # a setting of the admin's theme
from llmgateway.secrets_file import ensure_secrets


def _load() -> Conf:
    # `--data` may have come after conf was first imported, so the folder is asked for anew.
    ensure_secrets(Conf(dict(os.environ)).secrets_file)
    conf_module.conf = Conf(read_environment(dict(os.environ)))
    return conf_module.conf


conf = _load()

BASE_DIR = PROJECT_ROOT
SECRET_KEY = conf.secret_key
DEBUG = conf.debug
ALLOWED_HOSTS = conf.allowed_hosts
CSRF_TRUSTED_ORIGINS = conf.csrf_trusted_origins

INSTALLED_APPS = [
    # The development server's; twisted would cost every other process 12 MB.
    *(["daphne"] if "runserver" in sys.argv else []),
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "servestatic",
    "django.contrib.staticfiles",
    "channels",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "axes",
    "auditlog",
    "llmgateway.apps.LlmGatewayConfig",
    "llmgateway.management_api.apps.ManagementApiConfig",
    "providers.apps.ProvidersConfig",
    "billing.apps.BillingConfig",
    "dashboard.apps.DashboardConfig",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "llmgateway.middleware.ContentSecurityPolicyMiddleware",
    "llmgateway.management_api.middleware.ManagementApiMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "llmgateway.audit.ActorMiddleware",
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "llmgateway.urls"
ASGI_APPLICATION = "llmgateway.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]

SQLITE_OPTIONS: dict[str, Any] = {
    # IMMEDIATE: a deferred transaction that turns into a write fails at once when another writer is in between.
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;PRAGMA foreign_keys=ON;"
    "PRAGMA mmap_size=134217728;PRAGMA cache_size=-20000;",
}


def _database() -> dict[str, Any]:
    if not conf.database_url:
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": conf.data_dir / "gateway.sqlite3",
            "OPTIONS": SQLITE_OPTIONS,
        }
    try:
        database = dict(environ.Env.db_url_config(conf.database_url))
    except (KeyError, ValueError, ImproperlyConfigured) as error:
        raise ImproperlyConfigured(
            "DATABASE_URL is not usable: expected postgres://user:password@host:5432/name"
        ) from error
    if database.get("ENGINE") != "django.db.backends.postgresql":
        raise ImproperlyConfigured("DATABASE_URL must name PostgreSQL (postgres://…); leave it empty for SQLite")
    database.setdefault("OPTIONS", {})["pool"] = {"min_size": 1, "max_size": 8}
    return database


DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = reverse_lazy("dashboard:login")
LOGIN_REDIRECT_URL = reverse_lazy("dashboard:home")
LOGOUT_REDIRECT_URL = reverse_lazy("dashboard:login")

# Ten wrong passwords lock that user name from that address for a quarter of an hour.
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = 0.25
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
AXES_LOCKOUT_TEMPLATE = "dashboard/locked_out.html"

SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = conf.https
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SECURE_SSL_REDIRECT = False  # The proxy that ends TLS redirects; the data plane must not.
SECURE_HSTS_SECONDS = 31_536_000 if conf.https else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = conf.https
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if conf.https else None
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
SILENCED_SYSTEM_CHECKS = ["security.W008"]

LANGUAGE_CODE = "en"
USE_I18N = True
USE_TZ = True
FORMAT_MODULE_PATH = "llmgateway.formats"
TIME_ZONE = conf.time_zone

STATIC_URL = "/static/"
STATIC_ROOT = conf.static_dir
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}

CHANNEL_LAYERS: dict[str, Any] = {
    "default": (
        {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": [conf.redis_url]}}
        if conf.redis_url
        else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    )
}

_LOCAL_CACHE = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
CACHES = {
    "default": _LOCAL_CACHE,
    # Counts of the management API's brakes, which all processes should share.
    "counting": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": conf.redis_url,
        "KEY_PREFIX": "llmgateway",
        "OPTIONS": {"socket_timeout": 0.25, "socket_connect_timeout": 0.25},
    }
    if conf.redis_url
    else _LOCAL_CACHE,
}
CELERY_BROKER_URL = conf.redis_url or "filesystem://localhost"
CELERY_TASK_IGNORE_RESULT = True
CELERY_BEAT_SCHEDULE_FILENAME = str(conf.data_dir / "beat-schedule")
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TIMEZONE = "UTC"
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
if not conf.redis_url:
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "data_folder_in": str(conf.broker_dir / "queue"),
        "data_folder_out": str(conf.broker_dir / "queue"),
        "control_folder": str(conf.broker_dir / "control"),
        "store_processed": False,
    }

DEFAULT_FROM_EMAIL = conf.email_from
if conf.email_url:
    vars().update(environ.Env.email_url_config(conf.email_url))
else:
    EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"

AUDITLOG_STORE_JSON_CHANGES = True

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "fmt": "%(asctime)s %(levelname)s %(name)s %(message)s",
            "rename_fields": {"asctime": "timestamp", "levelname": "level", "name": "logger"},
        }
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"handlers": ["stderr"], "level": conf.log_level.upper()},
    "loggers": {
        "uvicorn.access": {"level": "WARNING"},
        "uvicorn.error": {"level": "WARNING"},
        "daphne": {"level": "WARNING"},
        "axes": {"level": "WARNING"},
        "httpx": {"level": "WARNING"},  # It logs every URL, and a URL may hold a key.
    },
}
