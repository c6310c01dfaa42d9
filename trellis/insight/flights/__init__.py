"""The book of flights as DataFrames: every attempt of other people's activities, as TrellisPlugin noted it.

A history holds the last two attempts of an activity. The book holds each of them, with the worker that ran it, and the
tries of loops inside them. `flights` reads it, `flight_attempts` gives it the form that charts and fits take, and joins
it with a history, which knows the activities that no worker with the plugin ran.
"""

from trellis.insight.flights.attempts import flight_attempts
from trellis.insight.flights.reading import PartialBook, flights

__all__ = ["PartialBook", "flight_attempts", "flights"]
