"""What the gateway costs: `python -m bench` measures it beside nginx, with every feature on.

Nothing of the product is imported here except to configure it: the gateway is a process behind a socket, like any other
target. The exception is `bench.inprocess`, which counts what the event loop alone pays for a request.
"""
