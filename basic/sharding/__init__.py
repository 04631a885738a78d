"""Which device holds what, and how rows stay where they are."""
