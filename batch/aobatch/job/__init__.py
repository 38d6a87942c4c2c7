"""A job from its input files to its published output."""
