"""The comparison of arms: its statistics, charts, pictures and page."""
