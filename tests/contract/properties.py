"""Identities that hold for any tree, shape, type and scale; the trees are drawn by hypothesis."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import strategies as st

from tests.contract.row import Make, NotApplicableError, Rows
from tests.contract.training import SOME, assert_finite, assert_same_run, assert_same_types

ROWS = Rows()

# Few shapes, so that most of the operations are compiled already.
SHAPES = st.sampled_from([(), (1,), (3,), (2, 3), (3, 2), (0, 2), (2, 1, 3)])
TYPES = st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16])
SCALES = st.sampled_from([1e-3, 1.0, 30.0])


@st.composite
def leaves(draw, types=TYPES, shapes=SHAPES):
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    shape = draw(shapes)
    # Off the origin, and asymmetric.
    return jnp.asarray(draw(SCALES) * (rng.normal(size=shape) + 0.3), draw(types))


def trees(types=TYPES):
    return st.recursive(
        leaves(types),
        lambda inner: st.one_of(
            st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
            st.lists(inner, max_size=2),
            st.tuples(inner, st.none()),
        ),
        max_leaves=4,
    )


# Two float32 leaves of few shapes: four programs to compile, which several rows share.
PAIRS = st.lists(
    leaves(st.just(jnp.float32), st.sampled_from([(3,), (2, 3)])), min_size=2, max_size=2
)


def few(examples: int):
    def settle(check):
        return hypothesis.settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )(check)

    return settle


def gradient(params, factor=1.0):
    """Of a quadratic about 1, with curvatures that differ between the entries."""

    def leaf(p):
        curvatures = 1.0 + jnp.arange(p.size, dtype=jnp.float32).reshape(p.shape)
        return (factor * curvatures * (p.astype(jnp.float32) - 1.0)).astype(p.dtype)

    return jax.tree.map(leaf, params)


@functools.cache
def stepper(make):
    optimizer = optax.with_extra_args_support(make())

    @jax.jit
    def step(grads, state, params):
        value = jnp.float32(1.0)
        extra = {"value": value, "grad": grads, "value_fn": lambda _: value}
        updates, state = optimizer.update(grads, state, params, **extra)
        return updates, state, optax.apply_updates(params, updates)

    return step


def run(make, params, steps=SOME, factor=1.0):
    state, step = make().init(params), stepper(make)
    for _ in range(steps):
        _, state, params = step(gradient(params, factor), state, params)
    return params, state


@ROWS()
def trees_of_all_kinds(make: Make, examples: int = 6) -> None:
    """finite, with structure, shapes and types kept, for any tree of leaves"""
    optimizer = make()

    @few(examples)
    @hypothesis.given(trees())
    def holds(params):
        end, state = run(make, params, 3)
        assert_finite((end, state))
        assert_same_types(end, params)
        assert_same_types(state, optimizer.init(params))

    holds()


@ROWS()
def mirror(make: Make, examples: int = 8) -> None:
    """mirrored at the origin, the run is mirrored, to the last bit"""

    @few(examples)
    @hypothesis.given(PAIRS)
    def holds(params):
        step = stepper(make)
        mirrored = jax.tree.map(jnp.negative, params)
        state, other = make().init(params), make().init(mirrored)
        for _ in range(3):
            grads = gradient(params)
            against = jax.tree.map(jnp.negative, grads)
            updates, state, params = step(grads, state, params)
            back, other, mirrored = step(against, other, mirrored)
            jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, -b), updates, back)

    holds()


@ROWS()
def names(make: Make, examples: int = 3) -> None:
    """names and nesting of the leaves do not matter"""

    @few(examples)
    @hypothesis.given(trees(st.just(jnp.float32)))
    def holds(params):
        nested, _ = run(make, params)
        flat, _ = run(make, jax.tree.leaves(params))
        assert_same_run(jax.tree.leaves(nested), flat, jax.tree.leaves(params))

    holds()


@ROWS()
def order(make: Make, examples: int = 8) -> None:
    """the order of the leaves does not matter"""

    @few(examples)
    @hypothesis.given(PAIRS)
    def holds(params):
        forth, _ = run(make, params)
        back, _ = run(make, params[::-1])
        assert_same_run(forth, back[::-1], params)

    holds()


@ROWS()
def scale_of_the_loss(make: Make, examples: int = 8) -> None:
    """a loss a million times larger changes nothing, where the direction has no scale"""
    probe = [jnp.array([3.0, 0.5, -1.0]), jnp.array([0.5, 1.5, -2.0])]
    one, other = (run(make, probe, 1, factor)[0] for factor in (2.0, 2.0**10))
    moved = [jnp.linalg.norm(end[0] - probe[0]) for end in (one, other)]
    if not np.allclose(*moved, rtol=1e-2):
        raise NotApplicableError("its direction scales with the loss")

    @few(examples)
    @hypothesis.given(PAIRS, st.sampled_from([2.0**-10, 2.0**20]))
    def holds(params, factor):
        usual, _ = run(make, params)
        scaled, _ = run(make, params, factor=factor)
        # Adam's eps is a gradient, which does not scale along.
        assert_same_run(scaled, usual, params, 0.1)

    holds()


@ROWS(slow=True)
def many_more(make: Make) -> None:
    """all of these for many more trees"""
    for holds in (trees_of_all_kinds, mirror, names, order):
        holds(make, 60)
        # Every tree compiles anew, and a process can hold only so many programs.
        jax.clear_caches()
