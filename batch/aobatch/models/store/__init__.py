"""Where models are kept: names, folders and their descriptions, and how models get there."""
