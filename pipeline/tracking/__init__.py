"""What DVC recorded, replayed into MLflow, and the model registry."""
