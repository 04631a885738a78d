"""From a configuration to objects, and from a folder of a run to its state."""
