"""The best layouts for a training run: all of them screened together, the best simulated."""
