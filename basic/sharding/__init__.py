"""Sharding: the mesh, the placement of arrays, and where rows are kept."""
