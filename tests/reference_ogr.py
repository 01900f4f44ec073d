"""NumPy twin of the low-noise OGR optimizer, from the raw pairs and in plain loops.

The package updates orthonormal directions in O(kD); the twin orthogonalises the stored
pairs afresh at every step, newest first, and minimises the model by bisection.
"""

import math

import numpy as np


def orthonormal(pairs, rank, tolerance):
    """Gram-Schmidt of the displacements, newest first, with the changes carried along."""
    directions, images = [], []
    for displacement, change in pairs:
        length = math.sqrt(displacement @ displacement)
        q, w = displacement / length, change / length
        for other, image in zip(directions, images, strict=True):
            share = other @ q
            q, w = q - share * other, w - share * image
        left = math.sqrt(q @ q)
        if left > tolerance and len(directions) < rank:
            directions.append(q / left)
            images.append(w / left)
    return np.array(directions), np.array(images)


def newest_first(measured):
    """Symmetric matrix in which entry (i, j) is what the newer of i and j measured."""
    n = len(measured)
    result = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            result[i, j] = measured[max(i, j), min(i, j)]
    return result


def bounded_newton(slopes, curvatures, radius):
    def step(shift):
        return np.array(
            [-c / (x + math.copysign(shift, x)) for c, x in zip(slopes, curvatures, strict=True)]
        )

    if np.linalg.norm(step(0.0)) <= radius:
        return step(0.0)
    low, high = 0.0, np.linalg.norm(slopes) / radius
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if np.linalg.norm(step(middle)) > radius else (low, middle)
    return step(high)


class Ogr:
    def __init__(self, rank, *, initial_radius=1.5, damping=1.0, tolerance=1e-3):
        self.rank, self.initial_radius = rank, initial_radius
        self.damping, self.tolerance = damping, tolerance
        self.pairs, self.base, self.radius, self.predicted = [], None, None, None
        self.stretch = None

    def __call__(self, gradient, point):
        """The next point."""
        if self.base is None:
            self.base, self.gradient = point, gradient
            self.radius = self.initial_radius * np.sqrt(np.mean(point**2))
            self.predicted = -0.5 * self.radius * np.linalg.norm(gradient)
            return point - self.radius * gradient / np.linalg.norm(gradient)
        step, rise = point - self.base, gradient - self.gradient
        moved = np.linalg.norm(step)
        actual = 0.5 * (self.gradient + gradient) @ step
        ratio = actual / self.predicted
        if ratio < 0.25:
            self.radius = 0.7 * min(moved, self.radius)
        elif ratio > 0.75 and moved > 0.8 * self.radius:
            self.radius *= 2.0
        if actual <= 0.0:
            self.base, self.gradient = point, gradient
        self.pairs.insert(0, (step, rise))
        size, along = np.linalg.norm(rise) / moved, abs(rise @ step) / moved**2
        self.stretch = size * min(size / along, 1.5)
        return self.base + self.step()

    def step(self):
        q, w = orthonormal(self.pairs, self.rank, self.tolerance)
        measured = q @ w.T
        eigenvalues, vectors = np.linalg.eigh(newest_first(measured))
        skew = vectors.T @ (measured - measured.T) @ vectors / 2.0
        noise = np.array(
            [
                math.sqrt(sum(skew[i, j] ** 2 / abs(x * y) for j, y in enumerate(eigenvalues)))
                for i, x in enumerate(eigenvalues)
            ]
        )
        damped = np.minimum(np.sqrt(1.0 + (self.damping * noise) ** 2), 2.0)
        stiffness = np.abs(eigenvalues) * damped
        self.eigenvalues = eigenvalues
        slopes = vectors.T @ q @ self.gradient

        left = self.gradient - w.T @ vectors @ (slopes / stiffness)
        left = left - q.T @ (q @ left)
        left = left - q.T @ (q @ left)
        outward = left / np.linalg.norm(left)
        coupling = vectors.T @ w @ outward
        n = len(q)
        model = np.zeros((n + 1, n + 1))
        model[:n, :n] = np.diag(stiffness)
        model[n, :n] = model[:n, n] = coupling
        model[n, n] = self.stretch + sum(coupling**2 / stiffness)
        values, turned = np.linalg.eigh(model)
        slopes = turned.T @ np.append(slopes, outward @ self.gradient)
        newton = bounded_newton(slopes, values, self.radius)
        self.predicted = slopes @ newton + 0.5 * sum(values * newton**2)
        inside = turned @ newton
        return inside[n] * outward + q.T @ vectors @ inside[:n]
