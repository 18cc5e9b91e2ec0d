"""The science of metaprune in PyTorch: data, networks, structure, compression, fusion, training and measuring."""

from workloads import moved

moved.keep_old_names("workloads", moved.WORKLOADS)
