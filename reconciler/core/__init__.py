"""What runs at both ends: the controller imports it, the agent ships it. Standard library only, Python 3.9 and later."""
