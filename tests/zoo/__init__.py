"""Networks the way people write them, in miniature, and what growkit has to find in each of them.

`catalogue` lists all architectures; `check` says what must hold for every width of every one of them.
"""
