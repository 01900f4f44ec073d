"""Problems without a data set: differential equations and a control task."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.layers import Params, mlp, mlp_init
from benchmarks.workloads.workload import Workload

lecun_tanh = jax.nn.initializers.variance_scaling(1.0, "fan_avg", "truncated_normal")


def relative_error(wrong: jax.Array, exact: jax.Array) -> jax.Array:
    """In the L2 norm, with one per cent added in squares: below it, ratios would be of noise."""
    return jnp.hypot(jnp.linalg.norm(wrong) / jnp.linalg.norm(exact), 0.01)


def oscillator(name, *, steps) -> Workload:
    """A physics-informed network for x'' + 0.4 x' + 4 x = 0 with x(0) = 1, x'(0) = 0, t < 3.

    Rows are points in time; what is reported is the relative error of x.
    """
    damping, stiffness, end = 0.4, 4.0, 3.0
    frequency = np.sqrt(stiffness - damping**2 / 4.0)
    times = np.linspace(0.0, end, 257, dtype=np.float32)
    decay = np.exp(-damping / 2.0 * times)
    exact = decay * (
        np.cos(frequency * times) + damping / 2 / frequency * np.sin(frequency * times)
    )

    def init(key) -> Params:
        return mlp_init(key, (1, 32, 32, 1), lecun_tanh)

    def position(params, t):
        # The initial values hold by construction.
        return 1.0 + t**2 * mlp(params, jnp.reshape(2.0 * t / end - 1.0, (1,)), jnp.tanh)[0]

    def loss(params, batch, key):
        def residual(t):
            speed = jax.grad(position, 1)
            return (
                jax.grad(speed, 1)(params, t)
                + damping * speed(params, t)
                + stiffness * position(params, t)
            )

        return jnp.mean(jax.vmap(residual)(batch[0]) ** 2)

    def evaluate(params, held_out):
        wrong = jax.vmap(position, (None, 0))(params, held_out[0]) - held_out[1]
        return relative_error(wrong, held_out[1])

    train = (np.random.default_rng(0).uniform(0.0, end, 4096).astype(np.float32),)
    held_out = (times, exact.astype(np.float32))
    return Workload(name, init, loss, train, held_out, batch=64, steps=steps, evaluate=evaluate)


def poisson(name, *, steps, waves=(1, 2), stiffness=0.0) -> Workload:
    """A physics-informed network for Δu + `stiffness` u = f on the unit square, 0 on its border.

    The solution is u = sin(aπx) sin(bπy), a and b the `waves`; what is reported is the relative
    error of u. With a stiffness it is Helmholtz' equation.
    """

    def solution(point):
        return jnp.sin(waves[0] * jnp.pi * point[0]) * jnp.sin(waves[1] * jnp.pi * point[1])

    def init(key) -> Params:
        return mlp_init(key, (2, 32, 32, 1), lecun_tanh)

    def value(params, point):
        border = 16.0 * jnp.prod(point * (1.0 - point))
        return border * mlp(params, 2.0 * point - 1.0, jnp.tanh)[0]

    def operator(function, point):
        return jnp.trace(jax.hessian(function)(point)) + stiffness * function(point)

    def loss(params, batch, key):
        def residual(point):
            return operator(lambda p: value(params, p), point) - operator(solution, point)

        return jnp.mean(jax.vmap(residual)(batch[0]) ** 2)

    return _collocated(name, init, loss, value, solution, steps)


def heat(name, *, steps) -> Workload:
    """A physics-informed network for u_t = u_xx / 10 on 0 < x, t < 1, with u = 0 at x = 0 and 1.

    At t = 0 it is sin(πx) + sin(2πx) / 2; points are (x, t), and what is reported is the relative
    error of u.
    """
    diffusion = 0.1

    def solution(point):
        return sum(
            factor
            * jnp.exp(-diffusion * (wave * jnp.pi) ** 2 * point[1])
            * jnp.sin(wave * jnp.pi * point[0])
            for wave, factor in ((1.0, 1.0), (2.0, 0.5))
        )

    def init(key) -> Params:
        return mlp_init(key, (2, 32, 32, 1), lecun_tanh)

    def value(params, point):
        start = solution(jnp.stack([point[0], 0.0]))
        border = 4.0 * point[0] * (1.0 - point[0]) * point[1]
        return start + border * mlp(params, 2.0 * point - 1.0, jnp.tanh)[0]

    def loss(params, batch, key):
        def residual(point):
            slope = jax.grad(value, 1)(params, point)
            bend = jax.hessian(value, 1)(params, point)
            return slope[1] - diffusion * bend[0, 0]

        return jnp.mean(jax.vmap(residual)(batch[0]) ** 2)

    return _collocated(name, init, loss, value, solution, steps)


def wave(name, *, steps) -> Workload:
    """A physics-informed network for u_tt = u_xx on 0 < x, t < 1, with u = 0 at x = 0 and 1.

    At t = 0 it is sin(πx) + sin(2πx) / 2 at rest; what is reported is the relative error of u.
    """

    def solution(point):
        return sum(
            factor * jnp.cos(number * jnp.pi * point[1]) * jnp.sin(number * jnp.pi * point[0])
            for number, factor in ((1.0, 1.0), (2.0, 0.5))
        )

    def init(key) -> Params:
        return mlp_init(key, (2, 32, 32, 1), lecun_tanh)

    def value(params, point):
        start = solution(jnp.stack([point[0], 0.0]))
        border = 4.0 * point[0] * (1.0 - point[0]) * point[1] ** 2
        return start + border * mlp(params, 2.0 * point - 1.0, jnp.tanh)[0]

    def loss(params, batch, key):
        def residual(point):
            bend = jax.hessian(value, 1)(params, point)
            return bend[1, 1] - bend[0, 0]

        return jnp.mean(jax.vmap(residual)(batch[0]) ** 2)

    return _collocated(name, init, loss, value, solution, steps)


def _collocated(name, init, loss, value, solution, steps) -> Workload:
    """Random points of the unit square to train on, others to compare with the solution."""

    def evaluate(params, held_out):
        exact = jax.vmap(solution)(held_out[0])
        wrong = jax.vmap(value, (None, 0))(params, held_out[0]) - exact
        return relative_error(wrong, exact)

    points = np.random.default_rng(0).uniform(size=(4096 + 512, 2)).astype(np.float32)
    return Workload(
        name, init, loss, (points[512:],), (points[:512],), batch=64, steps=steps, evaluate=evaluate
    )


def cart_pole(name, *, steps) -> Workload:
    """Policy gradient on gymnax's CartPole: the data change with the policy.

    Rows are seeds of episodes. The loss is REINFORCE's, with the return to go, standardised
    at every time over the batch, as advantage. What is reported is the number of falls per
    `length` time steps, at least 1: the longest possible episode over the mean one.
    """
    import gymnax

    environment, constants = gymnax.make("CartPole-v1")
    length = 500

    def init(key) -> Params:
        return mlp_init(key, (4, 32, 2), lecun_tanh)

    def episode(params, seed):
        key = jax.random.key(seed)
        observation, state = environment.reset(key, constants)

        def step(carry, time):
            observation, state, alive = carry
            draw, advance = jax.random.split(jax.random.fold_in(key, time))
            scores = jax.nn.log_softmax(mlp(params, observation, jnp.tanh))
            action = jax.random.categorical(draw, scores)
            next_observation, state, _, done, _ = environment.step_env(
                advance, state, action, constants
            )
            return (next_observation, state, alive & ~done), (scores[action], alive)

        carry = (observation, state, jnp.array(True))
        return jax.lax.scan(step, carry, jnp.arange(length))[1]

    def play(params, seeds):
        scores, alive = jax.vmap(episode, (None, 0))(params, seeds)
        return scores, alive.astype(jnp.float32)

    def loss(params, batch, key):
        scores, alive = play(params, batch[0])
        left = jnp.flip(jnp.cumsum(jnp.flip(alive, 1), 1), 1)
        count = jnp.maximum(alive.sum(0), 1.0)
        mean = (alive * left).sum(0) / count
        spread = jnp.sqrt((alive * (left - mean) ** 2).sum(0) / count) + 1.0
        advantage = jax.lax.stop_gradient(alive * (left - mean) / spread)
        return -jnp.mean(jnp.sum(advantage * scores, 1) / length)

    def evaluate(params, held_out):
        return length / play(params, held_out[0])[1].sum(1).mean()

    seeds = np.arange(100_000, dtype=np.uint32)
    return Workload(
        name, init, loss, (seeds[100:],), (seeds[:100],), batch=8, steps=steps, evaluate=evaluate
    )


MAKERS = {
    # development
    "oscillator_pinn": lambda: oscillator("oscillator_pinn", steps=1000),
    "helmholtz_pinn": lambda: poisson("helmholtz_pinn", steps=400, waves=(2, 1), stiffness=10.0),
    "heat_pinn": lambda: heat("heat_pinn", steps=400),
    # confirmation
    "poisson_pinn": lambda: poisson("poisson_pinn", steps=400),
    # audit
    "wave_pinn": lambda: wave("wave_pinn", steps=600),
    # moving
    "cart_pole": lambda: cart_pole("cart_pole", steps=50),
}
