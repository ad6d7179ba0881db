"""A published environment for routing strategies: how much of what a clairvoyant would gain does a strategy gain?"""
