"""The science of metaprune: data, models, training, pruning and fusion, in PyTorch alone."""
