"""What runs at both ends: the controller imports it, the agent ships it. Python 3.9's standard library alone."""
