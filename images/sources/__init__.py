"""A user's images, in any layout, as candidates with a reason where one is refused."""
