"""Somebody's apps, as their users write them: nothing here knows Trellis."""
