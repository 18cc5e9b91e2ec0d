"""Clusters of neurons: k-means and spherical Gaussian mixtures, the same each time."""

import warnings

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor


def coordinates(vectors: Tensor) -> Tensor:
    """(n, min(n, d)) float64 points with the same distances as the (n, d) vectors."""
    vectors = vectors.double().cpu()
    n, d = vectors.shape
    if d <= n:
        return vectors
    scale, axes = torch.linalg.eigh(vectors @ vectors.T)
    points: Tensor = axes * scale.clamp(min=0).sqrt()
    return points


def clusters(vectors: Tensor, m: int, kind: str = "k-means") -> Tensor:
    """(n,) int64 numbers 0 to m − 1 of the clusters of (n, d) vectors; none is empty.

    Args:
        vectors: one row a neuron.
        m: number of clusters, at most n.
        kind: `k-means`, or `gaussian-mixture` with one variance a component.
    """
    from sklearn.cluster import KMeans  # here, as scikit-learn takes a second to load
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    points = coordinates(vectors).numpy()
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # equal neurons make fewer clusters than asked for
        if kind == "k-means":
            labels = KMeans(m, n_init=1, random_state=0).fit_predict(points)
        else:
            labels = GaussianMixture(m, covariance_type="spherical", random_state=0).fit_predict(points)
    return filled(torch.from_numpy(labels).long(), m)


def filled(labels: Tensor, m: int) -> Tensor:
    """The labels after each empty cluster got a member of the largest one."""
    labels = labels.clone()
    for empty in range(m):
        counts = labels.bincount(minlength=m)
        if counts[empty] == 0:
            labels[(labels == counts.argmax()).nonzero()[-1]] = empty
    return labels


def membership(labels: Tensor, m: int) -> Tensor:
    """(m, n) float32, one where a neuron is in a cluster."""
    return torch.nn.functional.one_hot(labels, m).T.float()
