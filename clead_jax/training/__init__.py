"""Training: a state, three kinds of step, one loop. Networks, attacks and losses come in as arguments."""
