"""Which account is asked, in which order, and when the next one may be: pure decisions."""
