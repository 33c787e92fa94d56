"""Readers of the accepted formats; only client/records.py and these modules open recordings."""
