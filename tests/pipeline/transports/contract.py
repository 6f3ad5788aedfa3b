"""What every transport to upstreams owes the gateway. Each transport's test inherits it and names its class."""

from __future__ import annotations

from tests.pipeline.transports.contract_answers import AnswersContract
from tests.pipeline.transports.contract_connections import ConnectionsContract
from tests.pipeline.transports.contract_limits import LimitsContract
from tests.pipeline.transports.contract_security import SecurityContract


class TransportContract(AnswersContract, ConnectionsContract, LimitsContract, SecurityContract):
    """Inherit, and set `make_transport`: max_connections, and tls, a context that trusts the tests' authority."""
