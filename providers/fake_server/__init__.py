"""A scripted provider on a real socket: realistic answers, every failure on demand, and a record of what it was sent."""
