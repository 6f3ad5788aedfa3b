"""What a `kill -9`, a full disk or a damaged file leaves of the books, tried with real processes."""
