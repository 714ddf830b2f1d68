"""A diffusion model of crystals of our own: training, sampling, steering."""
