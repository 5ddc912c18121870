"""Figures, statistics and the comparison report."""
