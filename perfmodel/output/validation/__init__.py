"""How wrong predictions are, told."""
