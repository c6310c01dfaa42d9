"""Trellis: a flight simulator for durable workflows.

Keep this file free of imports: the workflow sandbox executes it again for every workflow.
"""
