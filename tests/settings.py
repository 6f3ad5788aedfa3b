"""The product's settings in a clean room: nothing of the operator's environment or data folder gets in.

A settings module, because pytest-django loads settings before any conftest.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from llmgateway import conf as conf_module
from llmgateway.conf import Conf, read_environment

_FOREIGN = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", *(setting.name for setting in Conf.settings())}
for _name in list(os.environ):
    if _name.upper() in _FOREIGN or _name.endswith("_API_KEY"):
        del os.environ[_name]

os.environ["GATEWAY_DATA_DIR"] = _data_dir = tempfile.mkdtemp(prefix="gateway-tests-")
atexit.register(shutil.rmtree, _data_dir, ignore_errors=True)
# Pages warn when nothing was collected, and warnings are errors.
Path(_data_dir, "static").mkdir()
# No test speaks to the world, and each client that reads its 150 certificate authorities takes 25 ms to do so.
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = tempfile.mkdtemp(dir=_data_dir)
# Else each process that a test starts would compile the product again, which is a fourth of its start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
conf_module.conf = Conf(read_environment(dict(os.environ)))

from llmgateway.settings import *  # noqa: E402, F403  # only now is the environment clean

# A password hash that is meant to be slow would make up half of the suite's time.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

# What the tests start must be the product, not this module.
os.environ["DJANGO_SETTINGS_MODULE"] = "llmgateway.settings"
