"""Realising derivations: what is not valid is built, in dependency order, in sandboxes that never run as root."""
