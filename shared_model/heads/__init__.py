"""Heads: what is written of one, what is refused of one that somebody sends, and its answers."""
