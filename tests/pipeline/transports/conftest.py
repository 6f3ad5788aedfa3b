"""Fixtures of the transports' tests."""

from __future__ import annotations

import pytest

from llmgateway.pipeline.lean_transport import LeanTransport
from tests.pipeline.transports.certificates import Authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def lean() -> LeanTransport:
    return LeanTransport(max_connections=10)
