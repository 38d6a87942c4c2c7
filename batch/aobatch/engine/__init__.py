"""Continuous batching: requests in, results out; knows no files and no runtime."""
