"""The nemeses, one file for each kind of thing that breaks."""
