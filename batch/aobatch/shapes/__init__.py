"""Answers of a given shape: compiled with a model's vocabulary, and followed token by token."""
