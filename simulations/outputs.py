"""Where a lab command is to write, checked before it computes: see `shared_model.outputs`."""

from shared_model.outputs import file, folder

__all__ = ["file", "folder"]
