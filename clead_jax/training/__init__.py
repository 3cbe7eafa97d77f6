"""Training: a state, one step, one loop. Networks, attacks and losses come in as arguments.

Read `step` first, then `state` and `loop`; `views` says what a stage sees, `averaging` and `perturbation` are options.
"""
