"""Orders played call by call, on one clock: policy, faults, and the server's timers with the load that orders make."""

from trellis.insight.simulate.orders import Simulated, simulate

__all__ = ["Simulated", "simulate"]
