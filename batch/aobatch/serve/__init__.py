"""The documented endpoint over HTTP, and batches over HTTP, on top of the engine and of jobs."""
