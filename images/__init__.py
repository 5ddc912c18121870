"""Where images come from, how they are decoded, and how they are augmented together with their part maps."""
