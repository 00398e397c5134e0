"""Molehill keeps every virtual IP address of a pool on exactly one live machine."""

__version__ = "0.1.0"
