"""Who is who: the pairs of rows and columns with the least cost in all.

A pure function over a matrix; it knows nothing of faces. Results leave as pairs of indices.
"""

import numpy as np
from numpy.typing import NDArray


def assignment(cost: NDArray[np.float64], alone: float) -> list[tuple[int, int]]:
    """The pairs (row, column) of least total cost, no row and no column twice, in the order of rows.

    cost: (N, M), finite. A row that stays alone costs `alone`, so no pair costs more than that.
    Each row in turn takes the cheapest path of exchanges to a free column, with prices on rows and columns
    that keep all reduced costs at zero or above (Kuhn, "The Hungarian method for the assignment problem",
    1955).
    """
    rows, columns = cost.shape
    padded = np.full((rows, columns + rows), alone, np.float64)
    padded[:, :columns] = np.minimum(cost, 2 * alone)
    width = columns + rows
    row_price, column_price = np.zeros(rows), np.zeros(width)
    owner = np.full(width, -1)
    for row in range(rows):
        distance = padded[row] - row_price[row] - column_price
        came_from = np.full(width, -1)
        done = np.zeros(width, np.bool_)
        while True:
            column = int(np.argmin(np.where(done, np.inf, distance)))
            reached = distance[column]
            if owner[column] < 0:
                break
            done[column] = True
            other = owner[column]
            beyond = reached + padded[other] - row_price[other] - column_price
            better = ~done & (beyond < distance)
            distance[better], came_from[better] = beyond[better], column
        row_price[row] += reached
        row_price[owner[done]] += reached - distance[done]
        column_price[done] -= reached - distance[done]
        while came_from[column] >= 0:
            owner[column] = owner[came_from[column]]
            column = int(came_from[column])
        owner[column] = row
    return sorted((int(owner[c]), c) for c in range(columns) if owner[c] >= 0 and cost[owner[c], c] < alone)
