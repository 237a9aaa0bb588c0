"""The best deployments for a model, GPUs, traffic and an SLO: everything screened, the best simulated, one chosen."""
