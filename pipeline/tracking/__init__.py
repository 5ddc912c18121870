"""MLflow: a replay of what DVC has recorded, and the model registry."""
