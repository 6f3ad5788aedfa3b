"""The hot path: async and typed. No ORM, no settings, no globals."""
