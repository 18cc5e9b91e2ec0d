"""What a worker has at hand: what the driver sends it, its hardware, and the rows that it writes."""
