"""Small workflows of three shapes, which `trellis bench mutations` edits at random.

Each waits for the signal `go` in the middle, as often as it says, and tells by a query how often it waited.
"""
