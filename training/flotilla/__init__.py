"""The programs that run on a fleet's nodes: stage, train, store, status."""

__version__ = "0.1.0"
