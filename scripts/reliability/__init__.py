"""The figures of docs/reliability.md, one script each."""
