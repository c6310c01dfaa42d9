"""What is wrong with an app's timeouts, retry policies and workers, by the evidence of its own past.

Rules look at frames of histories and of the book of attempts. Each finding gives the evidence in numbers, the option's
name in the SDK, a value to set, and what that would change by prediction. The rules are silent where evidence is thin.
"""

from trellis.insight.doctor.examining import doctor
from trellis.insight.doctor.finding import Finding, Predicted, Report

__all__ = ["Finding", "Predicted", "Report", "doctor"]
