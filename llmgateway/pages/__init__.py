"""Admin, dashboard and management API in a process of their own, beside the server that lets apps in."""
