"""How calls behave, learned from recorded attempts: the mix of faults and the latency of good calls.

A call ends by working or by raising, unless a timeout or another lane's success cuts it off first. About a call that
was cut off we know only that it would have taken longer. Shares and latencies are therefore estimated as competing
risks under censoring (Aalen and Johansen, "An empirical transition matrix", Scandinavian Journal of Statistics 5,
1978). This estimate has no bias, even where it combines attempts under different timeouts (a step may have its own
retry rule) or includes the losing lanes of a hedge. A call that had not ended after the longest timeout counts as a
"hang": it hangs, or it is slower than every timeout in the data.

A step stops at its first success. That causes no bias, because each try is an independent draw. Lost tries, and tries
that have not ended, are left out. A history holds only the last two attempts of an activity. The attempts before them
failed, and their kinds of failure are assumed to have the same distribution as the known ones.
"""

from trellis.insight.fit.learned import Learned, learn
from trellis.insight.fit.step import Fit, fit

__all__ = ["Fit", "Learned", "fit", "learn"]
