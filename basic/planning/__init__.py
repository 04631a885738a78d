"""What a step needs and does, known before there is a machine to run it."""
