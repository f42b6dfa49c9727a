"""The `prge` command line: options and how they reach the commands."""
