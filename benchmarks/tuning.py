"""The search for the best learning rate and weight decay of a method that has them."""

from collections.abc import Callable, Mapping

MOST_EXTENSIONS = 8
MOST_DECAYS = 3


def tune(
    rates: tuple[float, ...],
    results: tuple[str, ...],
    measure: Callable[[float], Mapping[str, float]],
) -> float:
    """Measures a grid, and extends it until the best rate is not at its edge.

    Args:
      rates: ascending by factors of two.
      results: the readings for which the best rate must lie inside; one after the other.
      measure: from a rate to every reading, lower is better, infinity for a failure.

    Returns:
      The best rate for the first of the results.
    """
    measured = {rate: measure(rate) for rate in rates}

    def best(result: str) -> float:
        return min(measured, key=lambda rate: measured[rate][result])

    for result in results:
        for _ in range(MOST_EXTENSIONS):
            rate = best(result)
            if min(measured) < rate < max(measured):
                break
            beyond = rate / 2.0 if rate == min(measured) else rate * 2.0
            measured[beyond] = measure(beyond)
    return best(results[0])


def climb(decays: tuple[float, ...], measure: Callable[[float], float]) -> None:
    """Measures weight decays, and ten times the largest as long as that is the best."""
    measured = {decay: measure(decay) for decay in decays}
    for _ in range(MOST_DECAYS):
        largest = max(measured)
        if min(measured, key=measured.__getitem__) != largest:
            return
        measured[10.0 * largest] = measure(10.0 * largest)
