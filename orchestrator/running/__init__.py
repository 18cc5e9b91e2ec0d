"""Running a plan on Ray: the driver, and what a task does."""
