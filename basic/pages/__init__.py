"""A run as one HTML page: plots, galleries, and the page around them."""
