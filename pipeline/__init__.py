"""Orchestration: parameters, files, shards and tracking. It knows files and DVC; it holds no tensor maths."""
