"""The web console at /console: read-only pages over one merchant's payments, behind a login."""
