"""The command line: `main.py` has the parser and the exit codes, and each command has its own file."""
