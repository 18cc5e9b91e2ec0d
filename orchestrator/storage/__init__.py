"""Where a run lives: networks, and tables in Parquet."""
