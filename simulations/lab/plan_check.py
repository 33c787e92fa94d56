"""A prediction held against a finished run: each figure, and how far off it was."""
