"""Real sshd hosts for end-to-end tests: one OpenSSH server each, isolated from the machine and from one another."""
