"""Model folders: found by name, pulled, converted, described."""
