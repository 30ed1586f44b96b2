"""Many small networks compared on one table."""
