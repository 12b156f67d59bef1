"""Storage: all that a run keeps on disk, and how damage is detected."""
