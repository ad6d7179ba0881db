"""What ``gateway dev --traffic`` shows: a month of payments that were never made, and payments that are made now.

For development alone, in test mode alone. :mod:`gateway.demo.shoppers` says who pays and what issuers say of it, :mod:`gateway.demo.lives`
lets each payment live by the rules of ``gateway.lifecycle``, :mod:`gateway.demo.backfill` writes them; :mod:`gateway.demo.stream` drives
the real API.
"""
