"""Requests computed by workers of a Ray cluster, on this machine or on many.

The driver reads, keeps the ledger and publishes, as in any other job; a worker is an engine that
gives a result for each request and knows nothing else.
"""
