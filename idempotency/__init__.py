"""One key, one answer: the gate in Redis and the truth in Postgres."""
