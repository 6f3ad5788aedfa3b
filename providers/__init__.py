"""Where requests go: providers, their credentials, deployments of their models, and the aliases applications call."""
