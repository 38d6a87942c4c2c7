"""The command line: options to values, errors to exit codes."""
