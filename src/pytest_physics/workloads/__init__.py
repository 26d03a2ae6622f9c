"""What is run on a device: models, kernels and twin loads."""
