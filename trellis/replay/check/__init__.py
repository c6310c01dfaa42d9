"""Will the workflows that are there survive a change of their code? Replays tell what fits and what breaks where."""

from trellis.replay.check.checking import check
from trellis.replay.check.report import Checked, Finding, Proposal, Report

__all__ = ["Checked", "Finding", "Proposal", "Report", "check"]
