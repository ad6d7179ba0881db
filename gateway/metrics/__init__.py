"""Numbers about payments, taken where the money is."""
