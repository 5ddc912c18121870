"""Orchestration: the command line, DVC's graph, the walk and its slots, experiments. No tensor maths."""
