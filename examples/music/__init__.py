"""Bach's chorales: four voices drawn at once, or the lower three to a given soprano."""
