"""Ways to a host: one Connection protocol, the agent's client on top of it."""
