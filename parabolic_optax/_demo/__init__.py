"""The program behind ``python -m parabolic_optax``; not part of the library's interface.

data -> models -> train -> report, picture; ``cli`` calls them in this order.
"""
