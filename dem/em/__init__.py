"""How models are fitted: the EM loop, its events, and evaluation; blind to families and engines."""
