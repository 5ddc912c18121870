"""The schema of params.yaml and runtime.yaml, presets, valid names, and redaction of secrets."""
