"""Weights as their authors publish them, read as one kind of checkpoint."""
