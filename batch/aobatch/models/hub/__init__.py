"""Models out of repositories of Hugging Face: which files, how they come, what becomes of them."""
