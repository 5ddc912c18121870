"""Networks and losses: pure torch, no files, no global state."""
