"""How dates are written in the admin and dashboard, by language."""
