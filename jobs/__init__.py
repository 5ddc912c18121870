"""A stage as a process: its errors, its record, its identity, and the state from which it resumes."""
