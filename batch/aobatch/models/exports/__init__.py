"""Exports: decoder graphs that other tools wrote, read and described; they run as they are."""
