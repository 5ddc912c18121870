"""The schema of params.yaml and runtime.yaml, presets, and what names and texts may be."""
