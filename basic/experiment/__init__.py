"""Configurations: checking them, building runs from them, and restoring runs."""
