"""The Django project, and the app that owns access: who may call, from where, and how often."""
