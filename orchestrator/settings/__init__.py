"""The experiment: every setting, and how users write them."""
