"""A small app that knows nothing of Trellis, flown with TrellisPlugin by `trellis bench book`."""
