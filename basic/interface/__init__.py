"""What `import basic` offers: models to load and use, runs, and their metrics."""
