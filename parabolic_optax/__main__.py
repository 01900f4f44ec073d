"""``python -m parabolic_optax``: trains a Flax model on real data, no learning rate given."""

import sys


def main() -> int:
    """Runs the demo and returns its exit code."""
    try:
        from parabolic_optax._demo.cli import main as demo

        return demo()
    except ModuleNotFoundError as error:
        print(
            f"python -m parabolic_optax needs {error.name}, which is not installed.\n"
            "Install the package with its demo extra; in a clone: pip install '.[demo]'",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
