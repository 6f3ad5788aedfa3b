"""The HTTP surface of the data plane: raw ASGI, in front of Django."""
