"""The command line: one file a command; `main` prints errors, `ask` asks, `render` turns values into text."""
