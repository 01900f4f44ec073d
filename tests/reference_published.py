"""NumPy twins of the published OGR forms, in plain loops over full D x D matrices.

The package keeps k x k moments and turns them with the directions; the twin keeps them in the
space of the parameters and projects it on the directions of the day.
"""

import math

import numpy as np


def gram_schmidt(rows):
    done = []
    for row in rows:
        left = row - sum((other @ row) * other for other in done)
        size = np.linalg.norm(left)
        small = size <= 1e-3 * np.linalg.norm(row)
        done.append(np.zeros_like(row) if small else left / size)
    return np.array(done)


class Mean:
    """A mean of all samples at first, and with the weight 1 - decay for the newest later."""

    def __init__(self, decay):
        self.decay, self.number, self.value = decay, 0, None

    def weight(self):
        return max(1.0 - self.decay, 1.0 / self.number)

    def add(self, sample):
        self.number += 1
        self.value = sample if self.value is None else self.value
        self.value = (1.0 - self.weight()) * self.value + self.weight() * sample


class Momentum:
    def __init__(self, decay):
        self.mean = Mean(decay)

    def add(self, gradient):
        self.mean.add(gradient)

    def rows(self):
        return gram_schmidt([self.mean.value])


class Oja:
    def __init__(self, rank, rate):
        self.rank, self.rate, self.filled = rank, rate, []

    def add(self, gradient):
        unit = gradient / math.sqrt(gradient @ gradient)
        rows = [row + self.rate * (row @ unit) * unit for row in self.filled]
        rows = rows if len(rows) == self.rank else [*rows, unit]
        self.filled = [row for row in gram_schmidt(rows) if row.any()]

    def rows(self):
        return np.array(self.filled)


def least_squares(directions, spread, response):
    """H in the coordinates of the directions, from C H + H C = B + B^T as k^2 equations."""
    c, b = directions @ spread @ directions.T, directions @ response @ directions.T
    k = len(directions)
    system = np.kron(c, np.eye(k)) + np.kron(np.eye(k), c)
    solution, *_ = np.linalg.lstsq(system, (b + b.T).ravel(), rcond=0.5e-6)
    return solution.reshape(k, k)


def run(propose, gradient, point, steps, *, learning_rate, share, reach=1.0, decay=0.9):
    """Points of the run, the start not included."""
    point_mean, slope_mean = Mean(decay), Mean(decay)
    n, waiting, points = len(point), [], []
    spread, response, directions = np.zeros((n, n)), np.zeros((n, n)), np.zeros((0, n))
    for number in range(steps):
        g = gradient(point)
        away = point - point_mean.value if number else np.zeros(n)
        rise = g - slope_mean.value if number else np.zeros(n)
        point_mean.add(point)
        slope_mean.add(g)
        w = point_mean.weight()
        on = directions.T @ directions
        spread = (1.0 - w) * on @ (spread + w * np.outer(away, away)) @ on
        response = (1.0 - w) * on @ (response + w * np.outer(rise, away)) @ on
        update = -learning_rate * g
        if len(directions):
            hessian = least_squares(directions, spread, response)
            slope = directions @ slope_mean.value + (1.0 - w) * hessian @ directions @ away
            limit = reach * math.sqrt(away @ away)
            values, vectors = np.linalg.eigh(hessian)
            for value, vector in zip(values, vectors.T, strict=True):
                if abs(value) > 1e-12:
                    axis = vector @ directions
                    way = min(limit, max(-limit, -share * (slope @ vector) / abs(value)))
                    update = update + (way + learning_rate * (axis @ g)) * axis
        # The directions of the next sample are fixed before its predecessor, this g, is drawn.
        if waiting:
            propose.add(waiting.pop())
            directions = propose.rows()
        waiting.append(g)
        point = point + update
        points.append(point)
    return np.array(points)


def diagonal(gradient, point, steps, *, learning_rate, share, decay=0.9, reach=1.0, sigma=False):
    """The same for one parabola per coordinate."""
    history, slopes, points = [], [], []
    for _ in range(steps):
        history.append(point)
        slopes.append(gradient(point))
        new = point.copy()
        for i, g in enumerate(slopes[-1]):
            shares = np.zeros(0)
            for number in range(1, len(history) + 1):
                w = max(1.0 - decay, 1.0 / number)
                shares = np.append((1.0 - w) * shares, w)
            x, s = np.array(history)[:, i], np.array(slopes)[:, i]
            mean, mean_slope = shares @ x, shares @ s
            variance = shares @ (x - mean) ** 2
            covariance = shares @ ((x - mean) * (s - mean_slope))
            if variance == 0.0:
                new[i] -= learning_rate * g
                continue
            curvature = covariance / variance
            slope = mean_slope + curvature * (x[-1] - mean)
            if sigma:
                curvature, slope = math.sqrt(shares @ (s - mean_slope) ** 2 / variance), g
            limit = reach * math.sqrt(variance)
            new[i] += min(limit, max(-limit, -share * slope / abs(curvature)))
        point = new
        points.append(point)
    return np.array(points)
