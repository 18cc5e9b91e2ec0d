"""From an experiment to its stages."""
