"""Importers: one file for each kind of file a model may come in."""
