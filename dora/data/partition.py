"""Training rows dealt to the clients of a federated run."""

from __future__ import annotations

import numpy as np

BINS = 5  # of a regression's labels, STS-B's 0 to 5


def classes_of(labels: np.ndarray) -> np.ndarray:
    """Returns the class of each row, (rows,) int64; a real label's is its whole part, at most 4."""
    if np.issubdtype(labels.dtype, np.floating):
        return np.minimum(np.floor(labels), BINS - 1).astype(np.int64)
    return labels.astype(np.int64)


def partition(
    labels: np.ndarray, clients: int, kind: str, alpha: float, seed: int
) -> list[np.ndarray]:
    """Returns each client's row numbers, ascending; every row belongs to one client.

    iid: equal parts of shuffled rows. dirichlet: the rows of each class are dealt by shares drawn
    from Dirichlet(alpha, …, alpha), so that a small alpha skews the classes. A draw is never
    repeated, since that would change its law: a client may be left with few rows of one class, or
    with none. A function of the seed.
    """
    random = np.random.default_rng([seed, 0x0FED, 0])
    if kind == "iid":
        parts = np.array_split(random.permutation(len(labels)), clients)
        return [np.sort(part) for part in parts]
    found: list[list[np.ndarray]] = [[] for _ in range(clients)]
    classes = classes_of(labels)
    for one in np.unique(classes):
        rows = random.permutation(np.flatnonzero(classes == one))
        shares = random.dirichlet(np.full(clients, alpha))
        cuts = np.floor(np.cumsum(shares)[:-1] * len(rows)).astype(np.int64)
        for client, part in enumerate(np.split(rows, cuts)):
            found[client].append(part)
    return [np.sort(np.concatenate(parts)) for parts in found]
