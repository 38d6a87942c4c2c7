"""The documented completions API: requests, responses and errors as data."""
