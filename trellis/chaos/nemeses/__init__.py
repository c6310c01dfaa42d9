"""The nemeses, one module for what each of them breaks."""
