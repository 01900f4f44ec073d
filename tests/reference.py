"""NumPy twins of the kernels and of the whole flagship, written from the equations in loops."""

import math

import numpy as np

TINY = float(np.finfo(np.float32).tiny)
REACH = 3e-3
LONG = 1000.0


def displacement(grad, param, anchor):
    """Slope along the unit displacement, and its length."""
    dot = square = 0.0
    for g, p, a in zip(np.ravel(grad), np.ravel(param), np.ravel(anchor), strict=True):
        dot += g * (p - a)
        square += (p - a) ** 2
    length = math.sqrt(square)
    return (dot / length, length) if length > 0.0 else (0.0, 0.0)


def whole(slopes, positions):
    """Slope and length along the displacement of all tensors together."""
    length = math.sqrt(sum(x * x for x in positions))
    dot = sum(s * x for s, x in zip(slopes, positions, strict=True))
    return (dot / length, length) if length > 0.0 else (0.0, 0.0)


def weight(count, power):
    return (power + 1.0) / (count + power)


def polynomial_average(values, power):
    mean = 0.0
    for count, value in enumerate(values, 1):
        mean += weight(count, power) * (value - mean)
    return mean


def uncentred(slope, slope_size, position):
    signal = slope / max(slope_size, TINY)
    return signal, slope / max(position, TINY), -position


def centred_curvature(slopes, positions):
    """Regression of the slope on the position: cov(s, x) / var(x), with a free intercept."""
    slopes, positions = np.asarray(slopes), np.asarray(positions)
    x = positions - positions.mean()
    return float(np.sum(x * (slopes - slopes.mean())) / np.sum(x * x))


def outward(slope, slope_size):
    return min(max((-slope / slope_size - 0.4) / 0.6, 0.0), 1.0)


def held(growth):
    return min(max(6.0 * (1.0 - growth), 0.5), 1.0)


def inward_step(update, params, step, strength, count):
    """A step of SGD's kind, coordinate by coordinate; `update` points uphill."""
    moved = []
    for u, p in zip(update, params, strict=True):
        share = min(step * strength, 1.0 / (count + 29.0)) / (1.0 + count / 300.0)
        moved.append(-step * u - (share * p if u * p > 0.0 else 0.0))
    return moved


def tangential(slope, length, radial_slope, growth):
    return slope - growth * radial_slope / length


def flip(curvature, offset):
    return -offset if curvature < 0.0 else offset


def multiplicative(drive, surprise, owed, stride, up, down, fastest, brake):
    change = stride * (up if drive > 0.0 else down) * drive
    taken = min(stride * brake * min(5.0, max(0.0, surprise / 5.0 - 1.0)), max(0.0, 1.0 - owed))
    back = min(stride * (fastest - up) * max(0.0, drive), owed)
    return change - taken + back, owed + taken - back


def open_share(share, used, drive, settled, count, stride):
    later = max(count + stride, 100)
    share *= max(count, 100) / later
    if settled <= 0.6:
        share = min(share, 100 / later)
    elif drive < 0.0:
        share = max(share, 1.5 * used)
    return min(max(share, 0.1), 1.0)


def search(log_step, before, travelled, travelled_before, blind):
    found = log_step + math.log(16.0)
    if travelled > 0.0:
        found = min(found, before + math.log(REACH / travelled))
    if travelled <= travelled_before:
        found = min(found, log_step if travelled > 0.0 else max(log_step, blind))
    return found


def gradient_size(square, mean, weight):
    if mean > 0.0:
        mean += weight * (min(square, 100.0 * mean) - mean)
    else:
        mean = square
    return max(math.sqrt(mean), math.sqrt(square), 1e-8), mean


class Adam:
    def __init__(self, params, b1=0.9, b2=0.999, eps=1e-8):
        self.b1, self.b2, self.eps, self.t = b1, b2, eps, 0
        self.m = [np.zeros_like(p) for p in params]
        self.v = [np.zeros_like(p) for p in params]

    def __call__(self, grads):
        self.t += 1
        out = []
        for i, g in enumerate(grads):
            self.m[i] = self.b1 * self.m[i] + (1.0 - self.b1) * g
            self.v[i] = self.b2 * self.v[i] + (1.0 - self.b2) * g**2
            m = self.m[i] / (1.0 - self.b1**self.t)
            v = self.v[i] / (1.0 - self.b2**self.t)
            out.append(m / (np.sqrt(v) + self.eps))
        return out


def norm_of(tensors):
    """Norm of the matrices, or of all where there are none."""
    matrices = [p for p in tensors if p.ndim > 1]
    return math.sqrt(sum(float(np.sum(p * p)) for p in matrices or tensors))


def trace(
    grad,
    params,
    steps,
    *,
    memory=29.0,
    pooling=1.0,
    anchor_power=0.5,
    tail_power=9.0,
    tail_share=0.7,
    window=None,
    initial_step=1e-6,
    growth=6.0,
    decline=1.0,
    max_rate=0.05,
    brake=0.1,
    limit=1.0,
    dense=1024,
    forgets=8.0,
    least=300,
):
    """The flagship over Adam on a list of tensors; one dict per step, params after it."""
    params = [np.array(p, np.float64) for p in params]
    n = len(params)
    anchor = [p.copy() for p in params]
    tail = [p.copy() for p in params]
    adam = Adam(params)
    mean_s, mean_size, mean_x = [0.0] * (n + 1), [0.0] * (n + 1), [0.0] * (n + 1)
    log_step = [math.log(initial_step)] * n
    before, owed, opened = list(log_step), [0.0] * n, [1.0] * n
    scale = norm_of(params)
    ranks = [min(p.shape[-1], p.size // max(1, p.shape[-1])) for p in params if p.ndim > 1]
    if ranks:
        scale = max(scale, 0.1 * math.sqrt(sum(ranks)))
    elif scale == 0.0:
        scale = 0.1 * math.sqrt(n)
    last_search, searching, travelled_before = 0, True, 0.0
    entries = sum(p.size for p in params)
    lag, lag_size, forgotten = 0.0, 0.0, 0.0
    rows = []
    for count in range(1, steps + 1):
        grads = grad(params)
        age = min(count, window) if window else count - int(forgotten)
        stride = 1 + 2 * max(min(age // (2 * dense), 4), age // 16384)
        golden = (count // stride * 0x9E3779B9) % 2**32
        if count % stride != (golden >> 16) * stride >> 16:
            params = [
                p - math.exp(h) * u for p, h, u in zip(params, log_step, adam(grads), strict=True)
            ]
            rows.append(rows[-1] | {"params": params})
            continue
        read_out = params if count == 1 else tail
        norm = norm_of(read_out)
        behind = sum(
            float(np.sum(g * (p - y))) for g, p, y in zip(grads, params, read_out, strict=True)
        )
        w = min(0.5, stride * weight(age, 1.0))
        lag += w * (behind - lag)
        lag_size += w * (abs(behind) - lag_size)
        psi = lag / lag_size if lag_size > 0.0 else 1.0
        if window is None:
            wanted = stride * max(1.0 - forgets * psi, 0.0)
            forgotten = min(forgotten + wanted, max(count - least, 0))
        for i in range(n):
            tail[i] = tail[i] + min(1.0, stride * weight(age, tail_power)) * (params[i] - tail[i])
        points = [p + tail_share * (y - p) for p, y in zip(params, tail, strict=True)]
        samples = [displacement(*gpa) for gpa in zip(grads, points, anchor, strict=True)]
        if count == 1:
            samples = [(0.0, 0.0)] * n
        samples.append(whole([s for s, _ in samples], [x for _, x in samples]))
        updates = adam(grads)
        for i in range(n):
            anchor[i] = anchor[i] + min(1.0, stride * weight(age, anchor_power)) * (
                params[i] - anchor[i]
            )

        surprise = [0.0] * (n + 1)
        signal, offset = [0.0] * (n + 1), [0.0] * (n + 1)
        for i, (s, x) in enumerate(samples):
            if mean_size[i] > 0.0:
                surprise[i] = s / mean_size[i]
            w = min(0.5, stride * weight(age, memory))
            mean_s[i] += w * (s - mean_s[i])
            mean_size[i] += w * (abs(s) - mean_size[i])
            mean_x[i] += w * (x - mean_x[i])
            signal[i], _, offset[i] = uncentred(mean_s[i], mean_size[i], mean_x[i])

        travelled = samples[-1][1] / (scale if scale > 0.0 else 1.0)
        was_searching = searching and scale > 0.0
        searching = was_searching and travelled < 0.5 * REACH
        if searching:
            last_search = count
        elapsed = min(max(1, count - last_search), age)
        short = min(1.0, LONG / age)
        blind = math.log(REACH) + math.log(max(scale / math.sqrt(entries) * count, 1e-30))
        moving = list(log_step)
        params = [p - math.exp(h) * u for p, h, u in zip(params, log_step, updates, strict=True)]
        pooled = [(1.0 - pooling) * signal[i] + pooling * signal[n] for i in range(n)]
        for i in range(n):
            curvature = pooled[i] * mean_size[i] / max(mean_x[i], TINY)
            aim = flip(curvature, offset[i])
            drive = float(np.sign(aim)) * abs(pooled[i])
            if limit is not None and ranks:
                most = limit * max(norm, scale) / math.sqrt(entries)
                used = math.exp(moving[i]) / most
                opened[i] = open_share(opened[i], used, drive, psi, count, stride)
            if was_searching:
                found = search(log_step[i], before[i], travelled, travelled_before, blind)
                if not searching or count == 1:
                    found = min(found, log_step[i])
                log_step[i] = found
            else:
                change, owed[i] = multiplicative(
                    drive,
                    max(surprise[i], surprise[n]),
                    owed[i],
                    stride,
                    min(max_rate, growth / elapsed),
                    min(max_rate, decline * (1.0 + short) / (2.0 * age)),
                    max_rate,
                    brake * short,
                )
                owed[i] *= count / (count + stride)
                log_step[i] += change
                if limit is not None and ranks:
                    log_step[i] = min(log_step[i], math.log(opened[i] * most))
        before, travelled_before = moving, travelled
        rows.append(
            {
                "params": params,
                "step_size": [math.exp(h) for h in log_step],
                "signal": list(signal),
                "anchor": list(anchor),
                "tail": list(tail),
                "search_end": last_search,
                "forgotten": forgotten,
            }
        )
    return rows


def bfloat16_neighbours(number):
    """The two bfloat16 around a float32, nearer to zero first, and the share of the way."""
    number = float(np.float32(number))
    if number == 0.0:
        return 0.0, 0.0, 1.0
    # 8 significant bits; below 2^-126 the spacing no longer shrinks.
    unit = 2.0 ** (max(math.frexp(abs(number))[1], -125) - 8)
    below = math.floor(abs(number) / unit) * unit
    share = (abs(number) - below) / unit
    above = below + unit if share > 0.0 else below
    return math.copysign(below, number), math.copysign(above, number), share


def scatter(number):
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        number = (number ^ (number >> shift)) * factor % 2**32
    return number ^ (number >> 16)


def dice(size, leaf, mean, count):
    """16 bits per entry: a hash of place, leaf and mean, plus count golden sections of 2^32."""
    seed = scatter((leaf + mean * 2**16) % 2**32)
    return [(scatter(place ^ seed) + count * 0x9E3779B9) % 2**32 >> 16 for place in range(size)]


def agreeing(direction, gradient):
    """A direction without the coordinates along which the loss rises."""
    kept = []
    for u, g in zip(direction, gradient, strict=True):
        rises = (u > 0 and g < 0) or (u < 0 and g > 0)
        kept.append(0.0 if rises else u)
    return np.array(kept, np.float32)
