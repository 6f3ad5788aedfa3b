"""How to talk to each provider: a pure library. No Django, no sockets, no clock."""
