"""What a payment costs here, and how much of that is the price of safety.

`python -m bench.run` measures three programs on one machine, in one run, against one simulated
PSP: the gateway, a floor (`bench.floor`: the same durable work in as little code as possible) and
a plain endpoint (`bench.plain`: the official SDK, no record, no safety). `python -m
bench.transport` compares ways to carry an SDK's call. Both need Linux: CPU is read from /proc.
"""
