"""The report of a run as one HTML page, with plots and galleries."""
