"""Merging an adapter: tensor files, the base's identity, the arithmetic, what the merge costs."""
