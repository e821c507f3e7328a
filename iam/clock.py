"""A clock may be wrong, and be set right: what must hold all the same.

The rules, each kept where it belongs; here is what they share:

1. How long something is believed, and when something is done again, is measured by a monotonic clock, or by both clocks
   where the machine may sleep (`iam.directory.Moment`). Nobody waits for hours because a clock was set back.
2. A clock that is ahead ends things too early. What is kept only so that something is refused (a session that was
   ended, a nonce that was used, the entry of a revoked certificate) is therefore kept for `CLOCK_MAY_GO_BACK` after its
   end: a clock that is set back finds it again.
3. A moment that lies in the future was written by a clock that was ahead. It excuses nothing: no grace that began then
   has begun, nobody is made to wait until then, and what was signed for then is signed anew.
4. What is relied on to come after something else has a number, not a time: lists, lines of the audit.
5. The clock of a broker is the broker's: of what it says only differences are believed (`callout.connections`).
"""

from datetime import timedelta
from typing import Final

CLOCK_MAY_GO_BACK: Final = timedelta(days=1)
"""By how much a clock is set back at most without undoing what rule 2 is about."""
