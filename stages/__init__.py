"""One thin job a file, run by DVC as `python -m stages.<name>`."""
